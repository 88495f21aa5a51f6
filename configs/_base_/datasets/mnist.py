# MNIST as 32 x 32 grey images, kept in memory: `mmext data mnist` prepares data/mnist.
# The first 55,000 training images are for training, the last 5,000 for validation; all 60,000 are
# trained on with --cfg-options train_dataloader.dataset.indices=None.
data_preprocessor = dict(num_classes=10, mean=[33.46], std=[78.87], to_rgb=False)
data = dict(type='MNIST', data_root='data/mnist', download=False)
train_pipeline = [dict(type='Resize', scale=32), dict(type='PackInputs')]
test_pipeline = [dict(type='Resize', scale=32), dict(type='PackInputs')]
train_dataloader = dict(
    batch_size=128,
    num_workers=0,
    persistent_workers=False,
    collate_fn=dict(type='mmext.collate_batch'),
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='mmext.InMemoryDataset',
        dataset=dict(split='train', **data),
        indices=55000,
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
        indices=-5000,
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
        # Without test_mode, MMPretrain reads the training files for the test as well.
        dataset=dict(split='test', test_mode=True, **data),
        pipeline=test_pipeline,
    ),
)
val_evaluator = dict(type='Accuracy', topk=1)
test_evaluator = val_evaluator
