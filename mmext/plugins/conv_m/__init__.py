"""Conv-M, a compact network, and unsupervised domain adaptation (arXiv 1703.04071).

A Conv-M module looks at its input through a convolution, a dilated convolution and a
deconvolution. Adaptation trains with labelled source and unlabelled target images: features that a
domain classifier cannot tell apart, a small divergence of the features, adapted label prediction.
Written from the paper's abstract; the layer table, the resampling of the deconvolution and the form
of the three losses are ours.
"""

from mmext.lazy import exports

__getattr__, __all__ = exports(
    __name__,
    {
        'AccuracyReportHook': 'accuracy_report',
        'CORALLoss': 'coral_loss',
        'ConvM': 'module',
        'ConvMNet': 'backbone',
        'DomainAdaptationClassifier': 'classifier',
        'DomainAdversarialLoss': 'adversarial_loss',
        'DropLabel': 'drop_label',
        'InvLR': 'inv_lr',
        'JMMDLoss': 'jmmd_loss',
        'LabelAdaptation': 'label_adaptation',
        'LabelFreeSelection': 'selection',
        'MKMMDLoss': 'mkmmd_loss',
        'TwoDomainDataset': 'two_domain',
        'TwoDomainLoopHook': 'two_domain_loop',
        'TwoDomainPreprocessor': 'preprocessor',
        'TwoDomainSampler': 'two_domain',
    },
)
