# Upscaling to any size and fixing in one go; two minutes of a CPU core.
_base_ = './_base_/photos.py'

model = dict(type='mmext.MetaSmoothing', weights=None)
train_dataloader = dict(dataset=dict(size=64, zoom=2.0, num_samples=2000))
train_cfg = dict(max_iters=500)
optim_wrapper = dict(optimizer=dict(lr=2e-3))
