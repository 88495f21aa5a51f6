# CIFAR-10 from the official files, kept in memory: `mmext data cifar10` prepares
# data/cifar10. Of each class 4,500 training images are for training and 500 for validation; all are
# trained on with --cfg-options train_dataloader.dataset.per_class=None.
data_preprocessor = dict(
    type='mmext.CropFlipPreprocessor',
    padding=4,
    flip_prob=0.5,
    num_classes=10,
    # MMPretrain's CIFAR gives RGB.
    mean=[125.307, 122.961, 113.8575],
    std=[51.5865, 50.847, 51.255],
    to_rgb=False,
)
data = dict(type='CIFAR10', data_root='data/cifar10', download=False)
# Crops and flips are the preprocessor's.
train_pipeline = [dict(type='PackInputs')]
test_pipeline = [dict(type='PackInputs')]
train_dataloader = dict(
    batch_size=128,
    num_workers=0,
    persistent_workers=False,
    collate_fn=dict(type='mmext.collate_batch'),
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='mmext.InMemoryDataset',
        dataset=dict(split='train', **data),
        per_class=4500,
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=500,
    num_workers=0,
    persistent_workers=False,
    collate_fn=dict(type='mmext.collate_batch'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='mmext.InMemoryDataset',
        dataset=dict(split='train', **data),
        per_class=-500,
        pipeline=test_pipeline,
    ),
)
test_dataloader = dict(
    batch_size=500,
    num_workers=0,
    persistent_workers=False,
    collate_fn=dict(type='mmext.collate_batch'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='mmext.InMemoryDataset',
        dataset=dict(split='test', **data),
        pipeline=test_pipeline,
    ),
)
val_evaluator = dict(type='Accuracy', topk=1)
test_evaluator = val_evaluator
