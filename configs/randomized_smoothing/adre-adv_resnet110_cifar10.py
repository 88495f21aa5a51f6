# ADRE at adversarial images by the schedule of arXiv 1906.04584: 150 epochs of batch 256.
_base_ = 'adre_resnet110_cifar10.py'

model = dict(adversarial=dict(eps=1.0, steps=10))
train_dataloader = dict(batch_size=256)
train_cfg = dict(max_epochs=150)
param_scheduler = dict(milestones=[50, 100])
auto_scale_lr = dict(base_batch_size=256)
