# scikit-learn's handwritten digits as 32 x 32 grey images; need no download.
dataset_type = 'mmext.DigitsDataset'
data_preprocessor = dict(num_classes=10, mean=[80.0], std=[91.0], to_rgb=False)
pipeline = [dict(type='PackInputs')]
train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    persistent_workers=False,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(type=dataset_type, split='train', size=32, pipeline=pipeline),
)
val_dataloader = dict(
    batch_size=200,
    num_workers=0,
    persistent_workers=False,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type=dataset_type, split='val', size=32, pipeline=pipeline),
)
test_dataloader = dict(
    batch_size=200,
    num_workers=0,
    persistent_workers=False,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type=dataset_type, split='test', size=32, pipeline=pipeline),
)
val_evaluator = dict(type='Accuracy', topk=1)
test_evaluator = val_evaluator
