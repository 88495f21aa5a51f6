# MNIST-M (regenerated): MNIST digits blended with photos, 32 x 32, colour: mmext data
# mnist_m. Validation is the last 5,000 training images.
dataset_type = 'mmext.ArrayImages'
data_root = 'data/mnist_m'
data_preprocessor = dict(
    num_classes=10, mean=[112.8, 112.8, 96.8], std=[64.3, 60.4, 63.2], to_rgb=True
)
pipeline = [dict(type='PackInputs')]
train_dataloader = dict(
    batch_size=128,
    num_workers=0,
    persistent_workers=False,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(type=dataset_type, data_root=data_root, split='train', pipeline=pipeline),
)
val_dataloader = dict(
    batch_size=250,
    num_workers=0,
    persistent_workers=False,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type=dataset_type, data_root=data_root, split='val', pipeline=pipeline),
)
test_dataloader = dict(
    batch_size=250,
    num_workers=0,
    persistent_workers=False,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type=dataset_type, data_root=data_root, split='test', pipeline=pipeline),
)
val_evaluator = dict(type='Accuracy', topk=1)
test_evaluator = val_evaluator
