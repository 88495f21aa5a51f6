# Digit scenes: handwritten digits pasted on real photos and textures, COCO format, made offline:
# mmext data digit_scenes. Test digits and backgrounds never appear in training.
dataset_type = 'CocoDataset'
data_root = 'data/digit_scenes/'
classes = ('0', '1', '2', '3', '4', '5', '6', '7', '8', '9')
metainfo = dict(classes=classes)
fold = 1
percent = 2
labelled_ann = f'annotations/semi/instances_train.{fold}@{percent}.json'
unlabelled_ann = f'annotations/semi/instances_train.{fold}@{percent}-unlabeled.json'

colour = [
    [dict(type='ColorTransform')],
    [dict(type='AutoContrast')],
    [dict(type='Equalize')],
    [dict(type='Sharpness')],
    [dict(type='Posterize')],
    [dict(type='Solarize')],
    [dict(type='Color')],
    [dict(type='Contrast')],
    [dict(type='Brightness')],
]
# No flips: a mirrored 2 is no digit. Each of these records its homography.
geometry = [
    [dict(type='Rotate', max_mag=12.0)],
    [dict(type='ShearX', max_mag=10.0)],
    [dict(type='ShearY', max_mag=10.0)],
    [dict(type='TranslateX', max_mag=0.15)],
    [dict(type='TranslateY', max_mag=0.15)],
]
meta_keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'homography_matrix')
# Scenes have the size of the input: this notes the scale, which detections are undone by.
resize = dict(type='Resize', scale_factor=1.0, keep_ratio=True)
augment_labelled = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    resize,
    dict(type='RandAugment', aug_space=colour, aug_num=1),
    dict(type='RandAugment', aug_space=geometry, aug_num=1),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(4, 4), keep_empty=False),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    resize,
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
# Views of an unlabelled image: a weak one for the teachers, a strong one for each student.
branches = ['sup_student1', 'sup_student2', 'unsup_teacher', 'unsup_student1', 'unsup_student2']
pack = dict(type='PackDetInputs', meta_keys=meta_keys)
weak = [resize, pack]
strong = [
    resize,
    dict(type='RandAugment', aug_space=colour, aug_num=1),
    dict(type='RandAugment', aug_space=geometry, aug_num=1),
    dict(type='RandomErasing', n_patches=(1, 3), ratio=(0, 0.2)),
    pack,
]
labelled_dataset = dict(
    type=dataset_type,
    data_root=data_root,
    metainfo=metainfo,
    ann_file=labelled_ann,
    data_prefix=dict(img='train/'),
    filter_cfg=dict(filter_empty_gt=True),
    pipeline=[*augment_labelled, pack],
)
train_dataloader = dict(
    batch_size=4,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='mmext.MultiSourceSampler', batch_size=4, source_ratio=[1]),
    dataset=dict(type='mmext.SeededConcatDataset', datasets=[labelled_dataset]),
)


def evaluate_on(split):
    return dict(
        batch_size=50,
        num_workers=1,
        persistent_workers=True,
        drop_last=False,
        sampler=dict(type='DefaultSampler', shuffle=False),
        dataset=dict(
            type=dataset_type,
            data_root=data_root,
            metainfo=metainfo,
            ann_file=f'annotations/instances_{split}.json',
            data_prefix=dict(img=f'{split}/'),
            test_mode=True,
            pipeline=test_pipeline,
        ),
    )


val_dataloader = evaluate_on('val')
test_dataloader = evaluate_on('test')
val_evaluator = dict(
    type='CocoMetric', ann_file=data_root + 'annotations/instances_val.json', metric='bbox'
)
test_evaluator = dict(
    type='CocoMetric', ann_file=data_root + 'annotations/instances_test.json', metric='bbox'
)
