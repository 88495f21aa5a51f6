# The default stylizer, trained without any style; two minutes of a CPU core.
_base_ = './_base_/photos.py'

model = dict(type='mmext.NeuralColorMapping', weights=None)
train_dataloader = dict(batch_size=8, dataset=dict(size=64, zoom=6.0, num_samples=12000))
train_cfg = dict(max_iters=1500)
optim_wrapper = dict(optimizer=dict(lr=2e-3))
