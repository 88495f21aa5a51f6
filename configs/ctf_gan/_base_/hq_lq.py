# Seven images of high quality to one of low quality in a batch; measured against real images.
train_dataloader = dict(
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='mmext.MultiSourceSampler', source_ratio=[7, 1]),
    dataset=dict(type='mmext.SeededConcatDataset'),
)
val_dataloader = dict(
    collate_fn=dict(type='default_collate'), sampler=dict(type='DefaultSampler', shuffle=False)
)
test_dataloader = dict(
    collate_fn=dict(type='default_collate'), sampler=dict(type='DefaultSampler', shuffle=False)
)
