"""The Triton kernels against the torch path: in Triton's interpreter, and on a GPU where one is."""

import os
import subprocess
import sys

import pytest
import torch

from mmext.plugins.terngrad import functional as F
from mmext.plugins.terngrad import kernels


def compare(device):
    """Both paths on the same random numbers."""
    generator = torch.Generator(device).manual_seed(1)
    for numel in (0, 3, 1030):
        for dtype in (torch.float32, torch.float16):
            grad = torch.randn(numel, generator=generator, device=device).to(dtype)
            if numel > 2:
                grad[2] = float('nan')
            bits = kernels.draw_bits(numel, generator)
            # The smallest uniform number draws nothing from a zero.
            grad[:1], bits[:1] = 0, 0
            inverse, bound = torch.tensor([1 / 2.5, 0.7], device=device)
            codes = torch.full((2, numel), 9, dtype=torch.int8, device=device)
            kernels.quantize_reference(grad, bits, inverse, bound, codes[0])
            kernels.launch_quantize(grad, bits, inverse, bound, codes[1])
            assert torch.equal(*codes) and not codes[:, :1].any(), numel
        rows = [
            torch.randint(-1, 2, (numel,), generator=generator, device=device).to(torch.int8)
            for _ in range(3)
        ]
        packed = torch.stack([F.pack_ternary(row) for row in rows])
        assert torch.equal(kernels.launch_sum(packed, numel), sum(rows)), numel
    many = F.pack_ternary(torch.ones(3, dtype=torch.int8, device=device)).expand(300, 1)
    assert kernels.launch_sum(many, 3).tolist() == [300] * 3
    assert kernels.sum_packed(many, 3).tolist() == [300] * 3


def test_kernels_equal_torch_in_the_interpreter(root):
    pytest.importorskip('triton')
    environment = {**os.environ, 'TRITON_INTERPRET': '1', 'PYTHONPATH': str(root)}
    done = subprocess.run(
        [sys.executable, __file__], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
def test_kernels_equal_torch_on_a_gpu():
    assert kernels.usable(torch.cuda.current_device())
    compare('cuda')
    grad = torch.randn(100_000, device='cuda')
    limits = F.clip_limits([grad], 2.5)
    scale = F.scalers([grad], limits)[0]
    codes = F.ternarize(grad, scale, torch.Generator('cuda').manual_seed(0), limits[0])
    assert (codes == 0).double().mean().item() == pytest.approx(0.682, abs=0.01)


def test_the_torch_path_draws_with_the_right_rates():
    """What CUDA runs without Triton; the CPU has its own path."""
    grad = torch.linspace(-1, 1, 41).repeat(20_000)
    codes = torch.empty(grad.numel(), dtype=torch.int8)
    bits = kernels.draw_bits(grad.numel(), torch.Generator().manual_seed(0))
    inverse, bound = kernels.reciprocal(2.0, 0.5, grad.device)
    kernels.quantize_reference(grad, bits, inverse, bound, codes)
    expected = (grad.clamp(-0.5, 0.5) / 2).view(-1, 41)[0].double()
    means = codes.view(-1, 41).double().mean(0)
    torch.testing.assert_close(means, expected, rtol=0, atol=0.013)


@pytest.mark.parametrize('scale', [0.0, float('inf')])
def test_the_torch_path_draws_nothing_without_a_scaler(scale):
    inverse, bound = kernels.reciprocal(scale, scale, torch.device('cpu'))
    codes = torch.full((3,), 9, dtype=torch.int8)
    grad = torch.tensor([0.0, float('nan'), float('inf')])
    kernels.quantize_reference(grad, torch.zeros(3, dtype=torch.int32), inverse, bound, codes)
    assert not codes.any()


if __name__ == '__main__':
    compare('cpu')
