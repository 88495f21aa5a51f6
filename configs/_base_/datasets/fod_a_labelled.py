# FOD-A with labels for a tenth of its training images, 192 px. Views as those of the digit scenes;
# `make demo ARGS='--data fod_a'` draws the labelled part.
_base_ = ['./fod_a.py']

labelled_ann = 'annotations/semi/train.1@10.json'
unlabelled_ann = 'annotations/semi/train.1@10-unlabeled.json'
colour = [
    [dict(type='ColorTransform')],
    [dict(type='AutoContrast')],
    [dict(type='Equalize')],
    [dict(type='Sharpness')],
    [dict(type='Color')],
    [dict(type='Contrast')],
    [dict(type='Brightness')],
]
geometry = [
    [dict(type='Rotate', max_mag=30.0)],
    [dict(type='ShearX', max_mag=10.0)],
    [dict(type='ShearY', max_mag=10.0)],
    [dict(type='TranslateX', max_mag=0.15)],
    [dict(type='TranslateY', max_mag=0.15)],
]
resize = dict(type='Resize', scale=(192, 192), keep_ratio=True)
flip = dict(type='RandomFlip', prob=0.5)
pack = dict(
    type='PackDetInputs',
    meta_keys=(
        'img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'homography_matrix',
    ),
)  # fmt: skip
weak = [resize, flip, pack]
strong = [
    resize,
    flip,
    dict(type='RandAugment', aug_space=colour, aug_num=1),
    dict(type='RandAugment', aug_space=geometry, aug_num=1),
    dict(type='RandomErasing', n_patches=(1, 3), ratio=(0, 0.2)),
    pack,
]
augment_labelled = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    resize,
    flip,
    dict(type='RandAugment', aug_space=colour, aug_num=1),
    dict(type='RandAugment', aug_space=geometry, aug_num=1),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(4, 4), keep_empty=False),
]
labelled_dataset = dict(
    _base_.train_dataloader.dataset, ann_file=labelled_ann, pipeline=[*augment_labelled, pack]
)
train_dataloader = dict(
    sampler=dict(_delete_=True, type='mmext.MultiSourceSampler', batch_size=8, source_ratio=[1]),
    dataset=dict(_delete_=True, type='mmext.SeededConcatDataset', datasets=[labelled_dataset]),
)
test_pipeline = [_base_.test_pipeline[0], resize, *_base_.test_pipeline[2:]]
val_dataloader = dict(batch_size=50, dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(batch_size=50, dataset=dict(pipeline=test_pipeline))
