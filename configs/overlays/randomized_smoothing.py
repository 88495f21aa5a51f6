# Train any MMPretrain classifier on Gaussian noise with the ADRE regulariser.
model = dict(
    type='mmext.ADREClassifier',
    classifier=dict(_host_='classifier'),
    sigma=0.25,
    num_noise=4,
    adre_weight=0.1,
)
# The runner-up class needs one label per image, which batch augments mix.
_keeps_ = ['data_preprocessor.batch_augments']
