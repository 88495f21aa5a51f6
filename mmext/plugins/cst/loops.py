"""Validation of several networks of one model."""

from collections.abc import Sequence

import torch
from mmengine.evaluator import Evaluator
from mmengine.model import is_model_wrapper
from mmengine.runner import ValLoop
from torch.utils.data import DataLoader

from mmext.registry import LOOPS

from .settings import PREDICT_ON


@LOOPS.register_module()
class CycleValLoop(ValLoop):
    """Evaluate several networks of ``CycleSelfTraining``; one pass over the data for each.

    Metrics are prefixed by the network, ``teacher1/coco/bbox_mAP``, and returned, so that
    ``CheckpointHook(save_best='teacher1/coco/bbox_mAP')`` works.

    Args:
        networks: Names among teacher1, teacher2, student1, student2, ensemble. None: only the one
            that ``semi_test_cfg.predict_on`` names.

    Raises:
        ValueError: Unknown or repeated network.

    Example:
        >>> val_cfg = dict(type='mmext.CycleValLoop', networks=['teacher1', 'teacher2'])
    """

    def __init__(
        self,
        runner,
        dataloader: DataLoader | dict,
        evaluator: Evaluator | dict | list,
        networks: Sequence[str] | None = None,
        fp16: bool = False,
    ) -> None:
        unknown = [name for name in networks or () if name not in PREDICT_ON]
        if unknown or len(set(networks or ())) < len(networks or ()):
            raise ValueError(
                f'CycleValLoop networks={networks}: choose among {list(PREDICT_ON)}, each once'
            )
        super().__init__(runner, dataloader, evaluator, fp16=fp16)
        self.networks = tuple(networks) if networks is not None else None

    @torch.no_grad()
    def run(self) -> dict:
        """Evaluate and return the metrics of all networks."""
        self.runner.call_hook('before_val')
        self.runner.call_hook('before_val_epoch')
        self.runner.model.eval()
        model = self.runner.model
        model = model.module if is_model_wrapper(model) else model
        asked = model.predict_on
        metrics: dict = {}
        try:
            for name in self.networks or (asked,):
                model.predict_on = name
                for index, data_batch in enumerate(self.dataloader):
                    self.run_iter(index, data_batch)
                found = self.evaluator.evaluate(len(self.dataloader.dataset))
                metrics.update({f'{name}/{key}': value for key, value in found.items()})
        finally:
            model.predict_on = asked
        self.runner.call_hook('after_val_epoch', metrics=metrics)
        self.runner.call_hook('after_val')
        return metrics
