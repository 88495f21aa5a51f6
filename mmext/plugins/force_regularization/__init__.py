"""Force Regularization: coordinate filters, then decompose (arXiv 1703.09746).

While a network trains, the filters of each layer attract each other, so that fewer of them span
the rest; afterwards every layer is replaced by two thinner ones of the rank that is left. The
force, its place in the optimizer's step and the energy rule are the author's. Ours: the decoupled
form for Adam, ranks chosen for a budget of MACs or measured milliseconds, the config that rebuilds
a low-rank model of any host, and group lasso on its components. Trained rank pruning is here as a
baseline.
"""

from .group_lasso_hook import ComponentLassoHook
from .hook import ForceRegularizationHook
from .lowrank import decompose
from .pair import LowRankConv, build_low_rank, cut_components, low_rank_conv
from .report import LayerReport, Report
from .trp_hook import TrainedRankPruningHook

__all__ = [
    'ComponentLassoHook',
    'ForceRegularizationHook',
    'LayerReport',
    'LowRankConv',
    'Report',
    'TrainedRankPruningHook',
    'build_low_rank',
    'cut_components',
    'decompose',
    'low_rank_conv',
]
