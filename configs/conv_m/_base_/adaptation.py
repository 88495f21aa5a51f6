# Conv-M for small grey images, adapted by all three losses: 32 + 32 images in a batch, SGD,
# schedule "inv".
_base_ = './da_runtime.py'

max_iters = 600
model = dict(
    type='mmext.DomainAdaptationClassifier',
    data_preprocessor=dict(mean=[80.0], std=[91.0]),
    backbone=dict(type='mmext.ConvMNet', arch='small', in_channels=1),
    neck=dict(
        type='LinearNeck', in_channels=128, out_channels=64, gap_dim=2, act_cfg=dict(type='ReLU')
    ),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=64),
    da_losses=dict(
        adversarial=dict(type='mmext.DomainAdversarialLoss', in_channels=64, hidden_channels=64),
        mmd=dict(type='mmext.MKMMDLoss', schedule='sigmoid'),
        # RTN starts from a trained network; from scratch, early low entropy calls the whole target
        # one class.
        label=dict(type='mmext.LabelAdaptation', num_classes=10, begin=0.5, warmup=0.5),
    ),
)
train_cfg = dict(type='mmext.ResumableIterTrainLoop', max_iters=max_iters, val_interval=100)
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.03, momentum=0.9, weight_decay=5e-4, nesterov=True),
)
# lr / (1 + 10 p)^0.75 at the share p of the training, as DANN.
param_scheduler = dict(type='mmext.InvLR', gamma=10 / max_iters, power=0.75, by_epoch=False)
default_hooks = dict(checkpoint=dict(interval=100))
