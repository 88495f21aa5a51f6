"""The arithmetic of MAT."""

import pytest
import torch
from torch import nn

from mmext.plugins.mat.functional import (
    attack_function,
    combine_scores,
    draw_strengths,
    mixed_loss,
    normalised_weights,
)


def test_the_gradient_of_the_mixed_loss_is_the_weighted_sum():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    parts = [(torch.randn(4, 6).double(), torch.randint(3, (4,))) for _ in range(3)]
    weights = normalised_weights([1, 2, 5], 3)

    def gradient(loss):
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, net.parameters())])

    def loss(x, y):
        return nn.functional.cross_entropy(net(x), y)

    found = gradient(mixed_loss([loss(x, y) for x, y in parts], weights))
    expected = sum(w / 8 * gradient(loss(x, y)) for w, (x, y) in zip((1, 2, 5), parts, strict=True))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_weights():
    assert normalised_weights(None, 4) == [0.25] * 4
    assert normalised_weights([0, 3], 2) == [0, 1]
    for wrong in ([1], [1, -1], [0, 0]):
        with pytest.raises(ValueError, match=r'weights=.* must be 2 numbers'):
            normalised_weights(wrong, 2)


def test_strengths_are_drawn_by_their_weights():
    draws = draw_strengths(
        20000, [0.0, 8.0, 16.0], [0.5, 0.2, 0.3], torch.Generator().manual_seed(0)
    )
    shares = [float((draws == value).float().mean()) for value in (0, 8, 16)]
    assert shares == pytest.approx([0.5, 0.2, 0.3], abs=0.02)


def test_combinations_by_hand():
    logits = torch.tensor([[[2.0, 0.0, 0.0]], [[0.0, 1.0, 0.5]], [[0.0, 1.0, 0.5]]])
    mean = combine_scores(logits, 'mean_prob')
    torch.testing.assert_close(mean[0], logits.softmax(2)[:, 0].mean(0))
    assert mean.argmax() == 0  # one sure network outweighs two
    assert combine_scores(logits, 'vote').argmax() == 1  # the majority does not
    tie = combine_scores(logits[:2], 'vote')
    assert tie.argmax() == 0 and float(tie.sum()) == pytest.approx(1)
    with pytest.raises(ValueError, match="combine='max'"):
        combine_scores(logits, 'max')


class Recorder(nn.Module):
    """Linear model that keeps its inputs."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.layer = nn.Linear(8, 3)
        self.seen = []

    def forward(self, x):
        self.seen.append(x.detach().clone())
        return self.layer(x)


def test_attacks_of_a_config():
    x, y = torch.full((2, 8), 0.5), torch.tensor([0, 1])
    eps = torch.tensor([0.1, 0.2])
    model = Recorder()
    moved = attack_function(dict(type='FGSM'))(model, x, y, eps)
    assert len(model.seen) == 1
    torch.testing.assert_close((moved - x).abs(), eps[:, None].expand(2, 8))
    model.seen.clear()
    run = attack_function(dict(type='PGD', steps=4, step_ratio=0.5, random_start=False))
    moved = run(model, x, y, eps)
    assert len(model.seen) == 4
    torch.testing.assert_close((model.seen[1] - x).abs(), eps[:, None].expand(2, 8) / 2)
    torch.testing.assert_close((moved - x).abs(), eps[:, None].expand(2, 8))
    own = attack_function(dict(type='FGSM', own_prediction=True))
    predicted = model(x).argmax(1)
    assert torch.equal(own(model, x, (predicted + 1) % 3, eps), own(model, x, predicted, eps))


@pytest.mark.parametrize(
    'attack, message',
    [
        (dict(type='CW'), "type='CW'"),
        (dict(type='FGSM', steps=3), 'FGSM has no steps'),
        (dict(type='PGD', steps=0), 'steps=0'),
        (dict(type='PGD', step_ratio=0), 'step_ratio=0'),
        (dict(type='PGD', norm='l1'), "norm='l1'"),
    ],
)
def test_bad_attacks(attack, message):
    with pytest.raises(ValueError, match=message):
        attack_function(attack)
