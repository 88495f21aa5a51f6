"""Force Regularization: coordinate filters, then decompose (arXiv 1703.09746).

While a network trains, the filters of each layer attract each other, so that fewer of them span
the rest; afterwards every layer is replaced by two thinner ones of the rank that is left. The
force, its place in the optimizer's step and the energy rule are the author's. Ours: the decoupled
form for Adam, ranks chosen for a budget of MACs or measured milliseconds, the config that rebuilds
a low-rank model of any host, and group lasso on its components. Trained rank pruning is here as a
baseline.
"""

from mmext.lazy import exports

__getattr__, __all__ = exports(
    __name__,
    {
        'ComponentLassoHook': 'group_lasso_hook',
        'ForceRegularizationHook': 'hook',
        'LayerReport': 'report',
        'LowRankConv': 'pair',
        'Report': 'report',
        'TrainedRankPruningHook': 'trp_hook',
        'build_low_rank': 'low_rank_model',
        'cut_components': 'pair',
        'decompose': 'lowrank',
        'low_rank_conv': 'pair',
    },
)
