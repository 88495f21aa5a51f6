# FOD-A: photos of tools, bolts, wires and other objects on runways, 224 px, COCO format:
# `mmext data fod_a --from FOLDER` prepares data/fod_a. The splits are random parts of
# the official ones, which are frames of videos: neighbours are alike on both sides.
dataset_type = 'CocoDataset'
data_root = 'data/fod_a/'
classes = (
    'AdjustableClamp',
    'AdjustableWrench',
    'Battery',
    'Bolt',
    'BoltNutSet',
    'BoltWasher',
    'ClampPart',
    'Cutter',
    'FuelCap',
    'Hammer',
    'Hose',
    'Label',
    'LuggagePart',
    'LuggageTag',
    'MetalPart',
    'MetalSheet',
    'Nail',
    'Nut',
    'PaintChip',
    'Pen',
    'PlasticPart',
    'Pliers',
    'Rock',
    'Screw',
    'Screwdriver',
    'SodaCan',
    'Tape',
    'Washer',
    'Wire',
    'Wood',
    'Wrench',
)
metainfo = dict(classes=classes)
scale = (224, 224)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
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
        ann_file='annotations/train.json',
        data_prefix=dict(img='train/'),
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
            ann_file=f'annotations/{split}.json',
            data_prefix=dict(img=f'{split}/'),
            test_mode=True,
            pipeline=test_pipeline,
        ),
    )


val_dataloader = evaluate_on('val')
test_dataloader = evaluate_on('test')
val_evaluator = dict(type='CocoMetric', ann_file=data_root + 'annotations/val.json', metric='bbox')
test_evaluator = dict(
    type='CocoMetric', ann_file=data_root + 'annotations/test.json', metric='bbox'
)
