# Mixed MAT on MNIST: one network, clean and three strengths (ours; the paper's are not known).
_base_ = '../guided_cw/victim_lenet5_mnist.py'

model = dict(
    _delete_=True,
    type='mmext.MATClassifier',
    strengths=[26, 51, 77],
    structure='mixed',
    mix='sample',
    attack=dict(type='PGD', steps=7),
    classifier=_base_.model,
)
test_cfg = dict(
    type='mmext.RobustnessTestLoop',
    strengths=[13, 26, 38, 51, 64, 77, 90],
    attacks=[dict(type='FGSM'), dict(type='PGD', steps=20)],
)
test_evaluator = dict(_delete_=True, type='mmext.RobustAccuracy')
