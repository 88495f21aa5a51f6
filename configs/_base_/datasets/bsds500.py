# Crops of the training photos of BSDS500, for self-supervised training and studies; MMEngine
# alone. `mmext data bsds500` prepares data/bsds500, which is for research use: no weights
# that are trained on it are shipped.
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='mmext.PhotoCrops',
        data_root='data/bsds500/images',
        split='train',
        size=96,
        num_samples=2400,
    ),
    collate_fn=dict(type='default_collate'),
)
