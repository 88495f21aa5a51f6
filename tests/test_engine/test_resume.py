"""Loop and seeding hook: a resumed run equals an uninterrupted one, bit for bit."""

import pytest
import torch
from mmengine.runner import IterBasedTrainLoop

from mmext.datasets.streams import MultiSourceSampler
from mmext.engine.hooks import IterSeedHook
from mmext.engine.loops import ResumableIterTrainLoop
from mmext.registry import HOOKS, LOOPS

SEEDING = [{'type': 'mmext.IterSeedHook'}]


def states(runner):
    optimizer = runner.optim_wrapper.state_dict()
    momenta = [entry['momentum_buffer'] for entry in optimizer['state'].values()]
    return [*runner.model.state_dict().values(), *momenta]


def equal(first, second):
    assert len(first) == len(second) > 4
    return all(map(torch.equal, first, second))


def loaded(runner):
    return sum(source.loaded for source in runner.train_dataloader.dataset.datasets)


def test_names_are_registered():
    assert HOOKS.get('mmext.IterSeedHook') is IterSeedHook
    assert LOOPS.get('mmext.ResumableIterTrainLoop') is ResumableIterTrainLoop


@pytest.mark.parametrize(('num_workers', 'persistent'), [(0, False), (2, True), (1, False)])
def test_resume_equals_uninterrupted(toy_runner, tmp_path, num_workers, persistent):
    def run(name, max_iters, **kwargs):
        runner = toy_runner(
            max_iters,
            num_workers,
            work_dir=tmp_path / name,
            persistent=persistent,
            custom_hooks=SEEDING,
            **kwargs,
        )
        runner.train()
        # Ends the workers now; when the garbage collector does, torch waits 5 s for each.
        runner.train_loop.dataloader_iterator = runner.train_loop.dataloader._iterator = None
        return runner

    whole = run('whole', 6)
    half = run('half', 3)
    assert not equal(states(half), states(whole))
    # Whatever the process drew before must not matter.
    torch.rand(5)
    checkpoint = str(tmp_path / 'half' / 'iter_3.pth')
    resumed = run('half', 6, resume=True, load_from=checkpoint)
    assert resumed.iter == 6
    assert equal(states(resumed), states(whole))
    if num_workers == 0:
        # Three iterations of four samples: nothing was replayed.
        assert loaded(resumed) == 12 and loaded(whole) == 24


def test_seeding_hook_is_what_makes_dropout_repeat(toy_runner, tmp_path):
    """Without the hook the same comparison fails, so the test above can fail."""
    whole = toy_runner(6, work_dir=tmp_path / 'whole')
    whole.train()
    toy_runner(3, work_dir=tmp_path / 'half').train()
    checkpoint = str(tmp_path / 'half' / 'iter_3.pth')
    resumed = toy_runner(6, work_dir=tmp_path / 'half', resume=True, load_from=checkpoint)
    torch.rand(5)
    resumed.train()
    assert not equal(states(resumed), states(whole))


def test_seeding_differs_by_iteration_rank_and_seed():
    class FakeRunner:
        def __init__(self, seed, rank, iteration):
            self.seed, self.rank, self.iter = seed, rank, iteration

    def draw(*key):
        IterSeedHook().before_train_iter(FakeRunner(*key), 0)
        return torch.rand(()).item()

    keys = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)]
    assert len({draw(*key) for key in keys}) == 4
    assert draw(0, 1, 2) == draw(0, 1, 2)


def trained_from_third(toy_runner, loop):
    train_cfg = {'type': loop, 'max_iters': 5, 'val_interval': 100}
    runner = toy_runner(5, custom_hooks=SEEDING, train_cfg=train_cfg)
    runner.train_loop._iter = 3
    runner.train()
    return runner


def test_sampler_without_skip_falls_back_to_the_parent(toy_runner, monkeypatch):
    skipping = trained_from_third(toy_runner, 'mmext.ResumableIterTrainLoop')
    assert loaded(skipping) == 2 * 4
    # Upstream's parent loads every past batch again, onedl's draws their indices only.
    monkeypatch.delattr(MultiSourceSampler, 'skip')
    parent = trained_from_third(toy_runner, 'IterBasedTrainLoop')
    fallback = trained_from_third(toy_runner, 'mmext.ResumableIterTrainLoop')
    assert loaded(fallback) == loaded(parent)
    assert equal(states(skipping), states(fallback))


def test_batch_sampler_that_regroups_falls_back_to_the_parent(toy_runner):
    loop = toy_runner().train_loop
    assert loop._skippable_sampler() is loop.dataloader.sampler

    class Regrouping(torch.utils.data.BatchSampler):
        pass

    loader = loop.dataloader
    loop.dataloader = torch.utils.data.DataLoader(
        loader.dataset, batch_sampler=Regrouping(loader.sampler, 4, False)
    )
    assert loop._skippable_sampler() is None


@pytest.mark.parametrize('num_workers', [0, 1])
def test_two_batch_sizes_are_refused(toy_runner, num_workers):
    runner = toy_runner(num_workers=num_workers)
    runner._train_dataloader['batch_size'] = 8
    message = r'train_dataloader.batch_size=8 and train_dataloader.sampler.batch_size=4 must be eq'
    with pytest.raises(ValueError, match=message):
        runner.train_loop  # noqa: B018


def test_a_sampler_without_a_batch_size_takes_any(toy_runner):
    runner = toy_runner()
    runner._train_dataloader.update(batch_size=8, sampler={'type': 'InfiniteSampler'})
    assert runner.train_loop.dataloader.batch_size == 8


def test_validation_happens_as_in_the_parent(toy_runner, tmp_path):
    def validated(loop, start):
        runner = toy_runner(
            7,
            val_interval=2,
            custom_hooks=SEEDING,
            train_cfg={'type': loop, 'max_iters': 7, 'val_interval': 2, 'val_begin': 4},
        )
        runner.train_loop._iter = start
        seen = []
        runner.val_loop.run = lambda: seen.append(runner.iter)
        runner.train()
        return seen

    for start in (0, 3):
        own = validated('mmext.ResumableIterTrainLoop', start)
        assert own == validated('IterBasedTrainLoop', start) == [4, 6, 7]
    assert issubclass(ResumableIterTrainLoop, IterBasedTrainLoop)
