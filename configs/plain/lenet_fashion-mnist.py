# Caffe's LeNet on Fashion-MNIST with flips; minutes on a CPU core.
_base_ = ['../_base_/datasets/fashion_mnist.py', './_base_/sgd_cpu.py']

model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(
        _base_.data_preprocessor, type='mmext.CropFlipPreprocessor', flip_prob=0.5
    ),
    backbone=dict(type='mmext.CaffeLeNet'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=500),
)
optim_wrapper = dict(optimizer=dict(lr=0.02))
pipeline = dict(dataset=dict(pipeline=[dict(type='PackInputs')]))
train_dataloader = dict(batch_size=64, **pipeline)
val_dataloader = pipeline
test_dataloader = pipeline
param_scheduler = dict(eta_max=0.02)
auto_scale_lr = dict(base_batch_size=64)
