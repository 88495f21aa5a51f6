# BCCD: microscope images of blood with boxes of three kinds of cells, VOC format:
# `mmext data bccd` prepares data/bccd. Evaluated by COCO's mAP at 0.5:0.95.
dataset_type = 'XMLDataset'
data_root = 'data/bccd/BCCD/'
classes = ('RBC', 'WBC', 'Platelets')
metainfo = dict(classes=classes)
# Half of 640 x 480.
scale = (320, 240)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='RandomFlip', prob=0.5, direction=['horizontal', 'vertical']),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    # CocoMetric takes the boxes of the files from 'instances'.
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'instances'),
    ),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        metainfo=metainfo,
        ann_file='ImageSets/Main/train.txt',
        data_prefix=dict(sub_data_root=''),
        filter_cfg=dict(filter_empty_gt=True),
        pipeline=train_pipeline,
    ),
)


def evaluate_on(split):
    return dict(
        batch_size=16,
        num_workers=1,
        persistent_workers=True,
        sampler=dict(type='DefaultSampler', shuffle=False),
        dataset=dict(
            type=dataset_type,
            data_root=data_root,
            metainfo=metainfo,
            ann_file=f'ImageSets/Main/{split}.txt',
            data_prefix=dict(sub_data_root=''),
            test_mode=True,
            pipeline=test_pipeline,
        ),
    )


val_dataloader = evaluate_on('val')
test_dataloader = evaluate_on('test')
val_evaluator = dict(type='CocoMetric', metric='bbox')
test_evaluator = val_evaluator
