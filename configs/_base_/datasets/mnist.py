# MNIST as 32 x 32 grey images; put the official files into data/mnist.
data_preprocessor = dict(num_classes=10, mean=[33.46], std=[78.87], to_rgb=False)
data = dict(type='MNIST', data_root='data/mnist', download=False)
train_pipeline = [dict(type='Resize', scale=32), dict(type='PackInputs')]
test_pipeline = [dict(type='Resize', scale=32), dict(type='PackInputs')]
train_dataloader = dict(
    batch_size=128,
    num_workers=2,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(split='train', pipeline=train_pipeline, **data),
)
val_dataloader = dict(
    batch_size=128,
    num_workers=2,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(split='test', pipeline=test_pipeline, **data),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=1)
test_evaluator = val_evaluator
