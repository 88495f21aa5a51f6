"""Conv-M, a compact network, and unsupervised domain adaptation (arXiv 1703.04071).

A Conv-M module looks at its input through a convolution, a dilated convolution and a
deconvolution. Adaptation trains with labelled source and unlabelled target images: features that a
domain classifier cannot tell apart, a small divergence of the features, adapted label prediction.
Written from the paper's abstract; the layer table, the resampling of the deconvolution and the form
of the three losses are ours.
"""

from .accuracy_report import AccuracyReportHook
from .adversarial_loss import DomainAdversarialLoss
from .backbone import ConvMNet
from .classifier import DomainAdaptationClassifier
from .coral_loss import CORALLoss
from .drop_label import DropLabel
from .inv_lr import InvLR
from .jmmd_loss import JMMDLoss
from .label_adaptation import LabelAdaptation
from .mkmmd_loss import MKMMDLoss
from .module import ConvM
from .preprocessor import TwoDomainPreprocessor
from .selection import LabelFreeSelection
from .two_domain import TwoDomainDataset, TwoDomainSampler
from .two_domain_loop import TwoDomainLoopHook

__all__ = [
    'AccuracyReportHook',
    'CORALLoss',
    'ConvM',
    'ConvMNet',
    'DomainAdaptationClassifier',
    'DomainAdversarialLoss',
    'DropLabel',
    'InvLR',
    'JMMDLoss',
    'LabelAdaptation',
    'LabelFreeSelection',
    'MKMMDLoss',
    'TwoDomainDataset',
    'TwoDomainLoopHook',
    'TwoDomainPreprocessor',
    'TwoDomainSampler',
]
