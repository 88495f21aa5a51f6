# Unsupervised domain adaptation of any ImageClassifier of MMPretrain by three losses; their sizes
# are those of its head. The config has to name source and target.
_needs_ = dict(
    transform='DropLabel',
    fix='give it an mmext.TwoDomainDataset of a labelled source and of a target whose pipeline '
    "begins with dict(type='mmext.DropLabel'), and mmext.TwoDomainSampler, as in "
    'configs/conv_m/README.md, or leave conv_m out',
)
# Batch augments mix source and target.
_keeps_ = ['data_preprocessor.batch_augments']
model = dict(
    type='mmext.DomainAdaptationClassifier',
    classifier=dict(_host_='classifier'),
    da_losses=dict(
        adversarial=dict(type='mmext.DomainAdversarialLoss'),
        mmd=dict(type='mmext.MKMMDLoss', schedule='sigmoid'),
        # Of a network that starts from scratch better begin=0.5, warmup=0.5: early low entropy
        # calls the whole target one class.
        label=dict(type='mmext.LabelAdaptation'),
    ),
)
custom_hooks = [dict(type='mmext.TwoDomainLoopHook')]
