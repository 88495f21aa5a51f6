"""Detectors of each head family learn in bfloat16 and channels_last on the CPU."""

import math

import pytest
import torch
from cst_detectors import FAMILIES, batch, build
from mmengine.optim import OptimWrapper

from mmext.engine import phases
from mmext.engine.hooks.autocast import _autocast
from mmext.engine.hooks.channels_last import ChannelsLastHook


def step(family, fast):
    """Total loss and gradients of one training step."""
    model = build(FAMILIES[family]()).train()
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.0))
    if fast:
        phases.attach(wrapper).register('around_forward', _autocast, 'autocast')
        ChannelsLastHook()._install(model)
    inputs, samples = batch()
    # Sampling of anchors and boxes.
    torch.manual_seed(0)
    with wrapper.optim_context(model):
        losses = model(inputs['sup'], samples['sup'], mode='loss')
    total, _ = model.parse_losses(losses)
    wrapper.backward(total)
    gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return total.item(), torch.cat(gradients)


@pytest.mark.parametrize('family', FAMILIES)
def test_one_step_agrees_with_float32(family):
    (exact, expected), (found, gradient) = step(family, False), step(family, True)
    assert found != exact and math.isclose(found, exact, rel_tol=0.02)
    assert gradient.dtype == torch.float32 and gradient.isfinite().all()
    # Of two stages, the second sees other proposals.
    assert torch.cosine_similarity(gradient, expected, dim=0) > 0.85
