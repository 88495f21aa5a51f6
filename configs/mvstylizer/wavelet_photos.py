# Haar auto-encoder with Cholesky WCT; two minutes of a CPU core. Training with a VGG-19 of yours:
# --cfg-options model.vgg=vgg19.pth
_base_ = './_base_/photos.py'

model = dict(type='mmext.WaveletStylizer', weights=None)
train_dataloader = dict(dataset=dict(size=48, num_samples=1600))
train_cfg = dict(max_iters=400)
