# Train any MMPretrain classifier on adversarial examples of several strengths (mixed MAT).
model = dict(
    type='mmext.MATClassifier',
    classifier=dict(_host_='classifier'),
    strengths=[2, 4, 8],
    attack=dict(type='PGD', steps=5),
    mix='sample',
)
