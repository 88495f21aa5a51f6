"""Draws in the loss of a model: what they depend on, and what they do not."""

import pytest
import torch
from mmengine.logging import MessageHub

from mmext.attacks import loss_draws
from mmext.attacks.loss_draws import LossDraws


@pytest.fixture
def hub():
    """What a Runner writes before every iteration."""
    hub = MessageHub.get_instance('loss draws')
    hub.update_info_dict(dict(seed=3, iter=0))
    return hub


def draw(draws, *index):
    return torch.rand((), generator=draws.generator(*index)).item()


def losses(draws, hub, iterations, count=2, indices=(0, 1)):
    """Everything that ``count`` losses draw in each of some iterations."""
    found = []
    for iteration in iterations:
        hub.update_info('iter', iteration)
        for _ in range(count):
            draws.begin()
            found += [draw(draws, index) for index in indices]
    return found


def test_every_draw_of_a_run_is_another_one(hub):
    found = losses(LossDraws('mine', 2), hub, range(3))
    assert len(set(found)) == 12


def test_a_resumed_run_goes_on_with_the_same_draws(hub):
    whole = losses(LossDraws('mine', 2), hub, range(3))
    torch.rand(5)
    assert losses(LossDraws('mine', 2), hub, (1, 2)) == whole[4:]


def test_seed_name_and_rank_count(hub, monkeypatch):
    found = losses(LossDraws('mine'), hub, (0, 1), 1, (0,))
    found += losses(LossDraws('yours'), hub, (0, 1), 1, (0,))
    monkeypatch.setattr(loss_draws, 'get_rank', lambda: 1)
    found += losses(LossDraws('mine'), hub, (0, 1), 1, (0,))
    hub.update_info('seed', 4)
    found += losses(LossDraws('mine'), hub, (0, 1), 1, (0,))
    assert len(set(found)) == 8


def test_without_a_runner_losses_differ():
    MessageHub.get_instance('loss draws of nobody')
    draws, found = LossDraws('mine'), []
    for _ in range(3):
        draws.begin()
        found.append(draw(draws))
        assert draw(draws) == found[-1]
    assert len(set(found)) == 3
