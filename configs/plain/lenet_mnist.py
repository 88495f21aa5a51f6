# Caffe's LeNet on MNIST, 28 x 28; minutes on a CPU core.
_base_ = ['../_base_/datasets/mnist.py', './_base_/sgd_cpu.py']

model = dict(
    type='ImageClassifier',
    data_preprocessor=_base_.data_preprocessor,
    backbone=dict(type='mmext.CaffeLeNet'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=500),
)
epochs = 10
optim_wrapper = dict(optimizer=dict(lr=0.02))
pipeline = dict(dataset=dict(pipeline=[dict(type='PackInputs')]))
train_dataloader = dict(batch_size=64, **pipeline)
val_dataloader = pipeline
test_dataloader = pipeline
train_cfg = dict(max_epochs=epochs)
param_scheduler = dict(eta_max=0.02, total_steps=epochs)
auto_scale_lr = dict(base_batch_size=64)
