"""Regularised training and certification of smoothed classifiers (arXiv 2002.07246).

A classifier smoothed by Gaussian noise has a provable L2 radius. ADRE trains its base on noisy
images with a penalty on the log probability of the smoothed runner-up class, also on adversarial
images; T-CERTIFY bounds the top and the runner-up class separately, so its radius grows where the
rest is spread over several classes. Written from the abstract and third parties; the floor of the
penalty and everything that makes the certificate sound are ours.
"""

from mmext.lazy import exports

__getattr__, __all__ = exports(
    __name__,
    {
        'ADREClassifier': 'adre_classifier',
        'CertifiedRadius': 'certified_radius',
        'SmoothedClassifier': 'smoothed_classifier',
    },
)
