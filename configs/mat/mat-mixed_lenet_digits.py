# Mixed MAT on handwritten digits, 28 x 28: one network, clean and three strengths; two minutes on a
# CPU. One strength: --cfg-options "model.strengths=[32]"
_base_ = [
    '../_base_/datasets/digits.py',
    '../_base_/schedules/digits_40e.py',
    '../_base_/cls_runtime.py',
]

model = dict(
    type='mmext.MATClassifier',
    strengths=[16, 32, 64],
    structure='mixed',
    mix='sample',
    attack=dict(type='PGD', steps=5),
    classifier=dict(
        type='ImageClassifier',
        data_preprocessor=_base_.data_preprocessor,
        backbone=dict(type='mmext.StridedLeNet', features=128),
        head=dict(type='LinearClsHead', num_classes=10, in_channels=128),
    ),
)
train_dataloader = dict(dataset=dict(size=28))
val_dataloader = dict(dataset=dict(size=28))
test_dataloader = dict(dataset=dict(size=28))
test_cfg = dict(
    type='mmext.RobustnessTestLoop',
    strengths=[8, 16, 32, 48, 64, 96],
    attacks=[dict(type='FGSM'), dict(type='PGD', steps=20)],
)
test_evaluator = dict(_delete_=True, type='mmext.RobustAccuracy')
