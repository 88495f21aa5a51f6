"""Codes must not depend on where DDP's bucket puts a gradient: buckets differ after a resume."""

import pytest
import torch

from mmext.plugins.terngrad.functional import clip_limits, scalers


@pytest.mark.parametrize('size', [16, 48, 432, 2304, 9216, 36864])
def test_limits_and_scalers_have_the_same_bits_at_every_offset(size):
    gradient = torch.randn(size, generator=torch.Generator().manual_seed(size))
    found = set()
    for offset in range(16):
        place = torch.empty(size + 16)[offset : offset + size].copy_(gradient)
        limits = clip_limits([place], 2.5)
        found.add((limits.item(), scalers([place], limits).item()))
    assert len(found) == 1
    ((limit, _),) = found
    assert limit == pytest.approx(2.5 * gradient.double().std(correction=0).item(), rel=1e-6)
