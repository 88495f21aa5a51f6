"""Random state as a function of the iteration."""

from mmengine.hooks import Hook

from mmext.engine.rng import derive_seed, seed_all
from mmext.registry import HOOKS


@HOOKS.register_module()
class IterSeedHook(Hook):
    """Seed the global generators before every training iteration.

    Python, NumPy and torch (all devices) are seeded from (seed of the run, rank, iteration), so
    dropout and samplers inside the model draw the same numbers in a resumed run as in an
    uninterrupted one, and other numbers on each rank. It does not reach the data pipeline, which
    runs before the hook or in another process; ``mmext.SeededConcatDataset`` does.

    A run is repeatable with a fixed ``randomness=dict(seed=...)``. Without one, MMEngine draws a
    seed and keeps it in the checkpoint, so this hook still resumes exactly. Costs some 0.05 ms.

    Example:
        >>> custom_hooks = [dict(type='mmext.IterSeedHook')]
    """

    # Before hooks that draw random numbers themselves.
    priority = 'VERY_HIGH'

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        """Seed for ``runner.iter``."""
        seed_all(derive_seed(runner.seed, 'iteration', runner.rank, runner.iter))
