"""CW-L2 attack guided by gradients (arXiv 1812.02524).

CW-L2 finds an adversarial image of least L2 distance by Adam and a search for a constant. Guided CW
begins where the gradient of the margin says that the boundary is, and takes the size of its steps
and the constants from there. Written from the paper's abstract: how the gradient is used is ours.
"""

from mmext.lazy import exports

__getattr__, __all__ = exports(
    __name__,
    {
        'CWAttack': 'cw_attack',
        'LoadAdversarialImage': 'mmext.attacks.load_adversarial_image',
        'cw_l2': 'functional',
        'ddn': 'mmext.attacks.minimum_norm',
        'fmn': 'mmext.attacks.minimum_norm',
    },
)
