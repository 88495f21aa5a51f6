# Mixed MAT on CIFAR-10: one network, clean and three strengths (ours; the paper's are not known).
_base_ = '../guided_cw/victim_resnet18_cifar10.py'

model = dict(
    _delete_=True,
    type='mmext.MATClassifier',
    strengths=[2, 4, 8],
    structure='mixed',
    mix='sample',
    attack=dict(type='PGD', steps=7),
    classifier=_base_.model,
)
test_cfg = dict(
    type='mmext.RobustnessTestLoop',
    strengths=[1, 2, 4, 6, 8, 12, 16],
    attacks=[dict(type='FGSM'), dict(type='PGD', steps=20)],
)
test_evaluator = dict(_delete_=True, type='mmext.RobustAccuracy')
