"""Small real trainings that one process, virtual workers and real ranks share."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import Tensor, nn

from mmext.plugins.terngrad import TernGradOptimWrapper

_NAMES = itertools.count()


class Net(BaseModel):
    """Twelve parameters, each a bucket where buckets are small; no batch norm statistics."""

    def __init__(self, width: int = 24, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        layers = [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, width)]
        for _ in range(3):
            layers += [nn.ReLU(), nn.Linear(width, width)]
        self.layers = nn.Sequential(*layers, nn.Linear(width, 10)).to(dtype)

    def forward(self, inputs: Tensor, target: Tensor, mode: str = 'loss'):
        logits = self.layers(inputs.to(self.layers[0].weight.dtype))
        if mode == 'loss':
            return {'loss': nn.functional.cross_entropy(logits, target)}
        return logits


def batch(worker: int, step: int) -> dict[str, Tensor]:
    """Data of a worker for a step."""
    generator = torch.Generator().manual_seed(1000 * worker + step)
    inputs = torch.randn(4, 1, 8, 8, generator=generator)
    return {'inputs': inputs, 'target': torch.randint(10, (4,), generator=generator)}


def wrapper_for(model: nn.Module, lr: float = 0.05, **settings) -> TernGradOptimWrapper:
    """Wrapper around SGD with momentum."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    # Runs of one process share MMEngine's message hub; the counters of the wrapper do not.
    # The layers of this small net are all ternary, unless told otherwise.
    settings = {'seed': 5, 'min_numel': 1, **settings}
    wrapper = TernGradOptimWrapper(optimizer=optimizer, **settings)
    wrapper.message_hub = type(wrapper.message_hub).get_instance(f'terngrad{next(_NAMES)}')
    return wrapper


def step(model: nn.Module, wrapper: TernGradOptimWrapper, data: dict, scale: float = 1.0) -> None:
    """One micro-batch; ``scale`` multiplies the loss as a GradScaler does."""
    with wrapper.optim_context(model):
        loss = model(**data, mode='loss')['loss']
    wrapper.update_params(loss * scale)


def flat(model: nn.Module) -> Tensor:
    """All parameters in one vector."""
    return torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])


class Points(torch.utils.data.Dataset):
    """Thirty-two samples of :func:`batch`'s kind."""

    def __len__(self) -> int:
        return 32

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {key: value[0] for key, value in batch(7, index).items()}


def runner(
    work_dir: Path, max_iters: int, launcher: str = 'none', hooks: Sequence[str] = (), **wrapper
) -> Runner:
    """A Runner of ``max_iters`` iterations with a checkpoint after each third."""
    from mmext.compat import distributed

    cfg = Config(
        dict(
            model=dict(type=Net),
            work_dir=str(work_dir),
            train_dataloader=dict(
                dataset=dict(type=Points),
                batch_size=4,
                num_workers=0,
                sampler=dict(type='InfiniteSampler', seed=1),
                collate_fn=dict(type='default_collate'),
            ),
            train_cfg=dict(type='IterBasedTrainLoop', max_iters=max_iters),
            optim_wrapper=dict(
                type='mmext.TernGradOptimWrapper',
                optimizer=dict(type='SGD', lr=0.05, momentum=0.9),
                **{'min_numel': 1, **wrapper},
            ),
            default_hooks=dict(
                checkpoint=dict(type='CheckpointHook', interval=3, by_epoch=False),
                logger=dict(type='LoggerHook', interval=1, log_metric_by_epoch=False),
            ),
            custom_hooks=[dict(type=name) for name in hooks],
            log_processor=dict(by_epoch=False, window_size=1),
            randomness=dict(seed=3),
            experiment_name=f'terngrad{next(_NAMES)}',
            visualizer=dict(
                type='Visualizer',
                vis_backends=[dict(type='LocalVisBackend')],
                name=f'terngrad{next(_NAMES)}',
            ),
        )
    )
    distributed.setup(cfg, launcher)
    torch.manual_seed(0)
    return Runner.from_cfg(cfg)


def resumed_equals_whole(work_dir: Path, launcher: str = 'none', **wrapper) -> bool:
    """Whether six iterations equal three and, from their checkpoint, three more."""
    whole = runner(work_dir / 'whole', 6, launcher, **wrapper)
    whole.train()
    runner(work_dir / 'half', 3, launcher, **wrapper).train()
    half = runner(work_dir / 'half', 6, launcher, **wrapper)
    half._resume, half._load_from = True, str(work_dir / 'half' / 'iter_3.pth')
    torch.rand(7)
    half.train()
    return bool(torch.equal(flat(whole.model), flat(half.model)))
