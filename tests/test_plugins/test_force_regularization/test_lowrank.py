"""Decomposition: factors, ranks, costs and what is left alone."""

import copy
import math
import time

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

from mmext.plugins.force_regularization import LowRankConv, decompose, low_rank_conv
from mmext.plugins.force_regularization.functional import rank_at, spectrum, unfold
from mmext.plugins.force_regularization.measure import layer_ms, model_ms
from mmext.plugins.force_regularization.selection import Option, candidate_ranks, choose, round_rank


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 24, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(24, 24, 3, padding=1, groups=24),
        nn.Conv2d(24, 32, 1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1, groups=2, bias=False),
        nn.ReLU(),
        nn.Conv2d(32, 48, (3, 5), stride=(2, 1), padding=(1, 2), dilation=(1, 1)),
    ).eval()


X = torch.rand(2, 3, 20, 16, generator=torch.Generator().manual_seed(3))
CONVS = [
    {'in_channels': 6, 'out_channels': 9, 'kernel_size': 3},
    {'in_channels': 6, 'out_channels': 8, 'kernel_size': (3, 5), 'stride': (2, 1),
     'padding': (1, 2), 'dilation': (2, 1), 'bias': False},
    {'in_channels': 6, 'out_channels': 8, 'kernel_size': 3, 'groups': 2, 'padding': 'same',
     'padding_mode': 'reflect'},
]  # fmt: skip


@pytest.mark.parametrize('settings', CONVS)
@pytest.mark.parametrize('method', ['pca', 'svd', 'kmeans', 'spatial'])
def test_full_rank_computes_what_the_layer_does(settings, method):
    torch.manual_seed(1)
    conv = nn.Conv2d(**settings).double()
    rows, columns = unfold(conv.weight, conv.groups, method == 'spatial').shape[1:]
    pair = low_rank_conv(conv, rows if method == 'kmeans' else min(rows, columns), method)
    x = torch.randn(2, 6, 12, 11).double()
    torch.testing.assert_close(pair(x), conv(x), rtol=1e-9, atol=1e-11)
    assert {type(part) for part in pair} == {nn.Conv2d}


def test_lower_rank_is_the_projection_and_keeps_dtype_bias_and_freezing():
    conv = nn.Conv2d(6, 9, 3, bias=True).requires_grad_(False)
    pair = low_rank_conv(conv, 4)
    matrix = conv.weight.reshape(9, -1)
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    product = pair.mix.weight.flatten(1) @ pair.basis.weight.flatten(1)
    torch.testing.assert_close(product, u[:, :4] * s[:4] @ v[:4], rtol=1e-4, atol=1e-6)
    assert torch.equal(pair.mix.bias, conv.bias) and pair.basis.bias is None
    assert not any(p.requires_grad for p in pair.parameters())


def test_energy_gives_each_layer_the_least_rank():
    model = net()
    spectra = {
        name: spectrum(unfold(m.weight, m.groups))
        for name, m in model.named_modules()
        if isinstance(m, nn.Conv2d)
    }
    report = decompose(model, 0.7, round_to=1, inputs=X, rounds=1)
    layers = {layer.name: layer for layer in report.layers}
    assert list(layers) == ['0', '2', '3', '5', '7']
    assert report.ranks and set(report.ranks) == {n for n, m in model.named_modules()
                                                 if isinstance(m, LowRankConv)}  # fmt: skip
    for name, rank in report.ranks.items():
        energies = spectra[name]
        assert rank == rank_at(energies, 0.7) < layers[name].break_even
        assert 0 < layers[name].eps <= 0.3
    assert layers['2'].kept == 'depthwise' and layers['2'].rank is None
    grouped = dict(model.named_modules())['5']
    assert grouped.basis.groups == grouped.mix.groups == 2
    assert grouped.basis.out_channels == 2 * report.ranks['5']


def test_costs_are_those_of_the_model_that_comes_out():
    model = nn.Sequential(net(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 5))
    before = sum(p.numel() for p in model.parameters())
    report = decompose(model, 0.6, round_to=4, inputs=X, rounds=1)
    assert report.params_before == before
    assert report.params == sum(p.numel() for p in model.parameters())
    assert report.macs_before - report.macs == sum(
        layer.macs_before - layer.macs for layer in report.layers
    )
    # A second tool counts the same.
    counted = 0

    def count(module, args, out):
        nonlocal counted
        kernel = module.weight[0].numel()
        counted += out[0].numel() * kernel

    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(count)
    model(X)
    assert counted == report.macs
    assert all(layer.ms and layer.ms_before for layer in report.layers if layer.rank)
    assert report.ms and report.ms_before


def test_spatial_costs_with_strides():
    model = nn.Sequential(nn.Conv2d(3, 24, (3, 5), stride=2, padding=(1, 2))).eval()
    report = decompose(model, ranks={'0': 3}, method='spatial', inputs=X, rounds=1)
    # 10 x 16 positions after the 3x1 convolution, 10 x 8 after the 1x5 one.
    assert report.layers[0].macs == 3 * (3 * 3) * 160 + 24 * (3 * 5) * 80
    assert model(X).shape == (2, 24, 10, 8)


def test_break_even_and_full_rank():
    model, x = net(), X
    before = model(x)
    report = decompose(model, 1.0, inputs=x, rounds=1)
    # Random weights have full rank: nothing is cheaper, and nothing has changed.
    assert not report.ranks and report.macs == report.macs_before
    assert 'break-even' in report.layers[0].kept
    torch.testing.assert_close(model(x), before)
    report = decompose(model, 1.0, round_to=1, allow_growth=True)
    assert report.ranks == {'0': 24, '3': 24, '5': 16, '7': 48}
    torch.testing.assert_close(model(x), before, rtol=1e-5, atol=1e-5)
    again = decompose(model, 0.5)
    assert not again.ranks and again.layers[0].kept == 'part of a low-rank pair'


def test_explicit_ranks_are_taken_or_refused():
    report = decompose(net(), ranks={'7': 5, '0': 3})
    assert report.ranks == {'0': 3, '7': 5}
    assert [x.kept for x in report.layers if x.name == '3'] == ['not in ranks']
    # 48 x 480: break-even at 43.6
    assert decompose(net(), ranks={'7': 43}).ranks == {'7': 43}
    with pytest.raises(ValueError, match=r'44 for 7 makes it no cheaper.*43\.6'):
        decompose(net(), ranks={'7': 44})
    with pytest.raises(ValueError, match='ranks 1 to 48, not 49'):
        decompose(net(), ranks={'7': 49})
    with pytest.raises(ValueError, match="'1' cannot be decomposed"):
        decompose(net(), ranks={'1': 2})


@pytest.mark.parametrize('method', ['pca', 'spatial'])
def test_target_macs_is_met_and_beats_one_energy_for_all(method):
    model = net()
    report = decompose(model, target_macs=0.5, method=method, round_to=1, inputs=X, rounds=1)
    assert 0.45 < report.macs / report.macs_before <= 0.5
    chosen = sum(-math.log(1 - layer.eps) for layer in report.layers)
    # No single energy does better at the same cost.
    for energy in (0.5, 0.6, 0.7, 0.8):
        other = decompose(net(), energy, method=method, round_to=1, inputs=X, rounds=1)
        if other.macs <= report.macs:
            assert chosen <= sum(-math.log(1 - layer.eps) for layer in other.layers) + 1e-3
    absolute = decompose(net(), target_macs=report.macs_before // 2, method=method, round_to=1,
                         inputs=X, rounds=1)  # fmt: skip
    assert absolute.ranks == report.ranks
    share = decompose(net(), target_macs=0.6, method=method)
    assert share.macs <= 0.6 * share.macs_before


def test_target_latency_is_chosen_from_what_was_measured(monkeypatch):
    from mmext.plugins.force_regularization import lowrank

    def times(model, forward, forms, rounds):
        """Layer 5 gains nothing, the others a tenth of a millisecond per rank below 10; 2 rest."""
        names = {module: name for name, module in model.named_modules()}
        result = []
        for form in forms:
            costs = {model: 2.0}
            for old, new in form.items():
                fast = isinstance(new, LowRankConv) and names[old] != '5'
                costs[old] = min(10.0, new.rank / 10) if fast else 10.0
            result.append(costs)
        return result

    monkeypatch.setattr(lowrank, 'layer_ms', times)
    report = decompose(net(), target_latency=0.4, round_to=1, inputs=X, rounds=1)
    layers = {layer.name: layer for layer in report.layers}
    # 4 candidates of 10 ms and 2 ms that stay: 42 ms, of which 16.8 may remain.
    assert '5' not in report.ranks and 'elsewhere' in layers['5'].kept
    assert 14 < 2 + 10 + sum(rank / 10 for rank in report.ranks.values()) <= 16.8
    assert all(layers[name].ms == rank / 10 for name, rank in report.ranks.items())
    with pytest.raises(ValueError, match='target_latency is out of reach: 2 belongs'):
        decompose(net(), target_latency=0.2, inputs=X, rounds=1)


def test_latency_is_that_of_the_layers_in_their_place():
    class Slow(nn.Identity):
        def forward(self, x):
            time.sleep(0.02)
            return x

    shared = nn.Identity()
    model = nn.Sequential(shared, Slow(), nn.Sequential(shared, Slow()))
    forms = [{shared: shared}, {shared: Slow()}]
    plain, slow = layer_ms(model, lambda m: m(X), forms, rounds=1)
    assert plain[shared] < 15 and plain[model] > 40
    assert slow[shared] > 40 and slow[model] > 40  # both uses of the shared module
    assert model_ms(model, lambda m: m(X), forms, rounds=1)[1] > 80
    assert model[0] is model[2][0] is shared


def test_faster_only_keeps_what_is_slower(monkeypatch):
    from mmext.plugins.force_regularization import lowrank

    def times(model, forward, forms, rounds):
        # Pretend: the pair of layer 7 is slower, all others are faster.
        slow = {'7': 3.0}
        names = {module: name for name, module in model.named_modules()}
        return [
            {old: 1.0 if new is old else slow.get(names[old], 0.5) for old, new in form.items()}
            for form in forms
        ]

    monkeypatch.setattr(lowrank, 'layer_ms', times)
    model = net()
    report = decompose(model, 0.5, round_to=1, inputs=X, rounds=1, faster_only=True)
    assert '7' not in report.ranks and '5' in report.ranks
    assert type(model[7]) is nn.Conv2d
    kept = next(layer for layer in report.layers if layer.name == '7')
    assert 'slower' in kept.kept and kept.macs == kept.macs_before and kept.eps == 0


def test_kmeans_ranks_by_energy():
    rows = torch.randn(4, 18, generator=torch.Generator().manual_seed(0))
    conv = nn.Conv2d(2, 12, 3)
    conv.weight.data = rows.repeat(3, 1).reshape(12, 2, 3, 3)
    model = nn.Sequential(conv)
    x = torch.rand(1, 2, 6, 6)
    before = model(x)
    report = decompose(model, 0.999, method='kmeans', round_to=1)
    assert report.ranks == {'0': 4}
    torch.testing.assert_close(model(x), before, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match='kmeans'):
        decompose(model, target_macs=0.5, method='kmeans')


class Shared(nn.Module):
    """One convolution under two names, used on two sizes, and one that is never used."""

    def __init__(self):
        super().__init__()
        self.a = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1))
        self.b = nn.Sequential(self.a[0])
        self.spare = nn.Conv2d(8, 8, 3)

    def forward(self, x):
        return self.a(x), self.b(x[..., ::2, ::2])


def test_a_shared_layer_is_replaced_everywhere_and_counts_every_use():
    model = Shared().eval()
    x = torch.rand(1, 8, 8, 8)
    report = decompose(model, ranks={'a.0': 3}, inputs=x, rounds=1)
    assert model.a[0] is model.b[0] and isinstance(model.b[0], LowRankConv)
    layer = report.layers[0]
    assert layer.macs_before == 8 * 72 * (64 + 16) and layer.macs == 3 * (72 + 8) * (64 + 16)
    assert report.layers[1].kept == 'not used by the forward'


def test_layers_that_do_not_use_their_weight_as_it_is_are_left_alone():
    class Standardised(nn.Conv2d):
        pass

    model = nn.Sequential(Standardised(8, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3))
    model[1].weight.data.zero_()
    nn.utils.parametrizations.weight_norm(model[2])
    report = decompose(model, 0.2)
    assert not report.ranks
    assert [layer.kept for layer in report.layers] == [
        'Standardised does not use its weight as it is',
        'weight is zero',
        'ParametrizedConv2d does not use its weight as it is',
    ]


def test_skipped_by_pattern():
    report = decompose(net(), 0.5, skip=['^[07]$'])
    assert {'0', '7'}.isdisjoint(report.ranks) and report.ranks


@pytest.mark.parametrize(
    ('kwargs', 'named'),
    [
        ({'energy': 0.9, 'target_macs': 0.5}, 'energy and target_macs'),
        ({'energy': 0}, 'energy=0'),
        ({'target_macs': -1}, 'target_macs=-1'),
        ({'target_macs': 1e6}, 'needs inputs'),
        ({'target_macs': 0.01}, 'target_macs is out of reach'),
        ({'target_latency': 0.5}, 'give inputs'),
        ({'target_latency': 2, 'inputs': X}, 'target_latency=2'),
        ({'method': 'cp'}, "method='cp'"),
        ({'round_to': 0}, 'round_to=0'),
        ({'skip': ['nothing']}, "skip: 'nothing'"),
    ],
)
def test_mistakes_are_named(kwargs, named):
    with pytest.raises(ValueError, match=named):
        decompose(net(), **kwargs)


def test_choice_of_options_against_brute_force():
    generator = torch.Generator().manual_seed(2)
    options = {}
    for name in 'abc':
        lost = torch.rand(4, generator=generator, dtype=torch.float64).sort(descending=True)[0]
        costs = torch.rand(4, generator=generator, dtype=torch.float64).sort()[0]
        options[name] = [Option(None, 1.5, 0.0)] + [
            Option(i, float(c), float(w)) for i, (c, w) in enumerate(zip(costs, lost, strict=True))
        ]
    for budget in (1.2, 1.5, 2.5, 4.6):
        chosen = choose(options, budget)
        best = min(
            (a.lost + b.lost + c.lost)
            for a in options['a'] for b in options['b'] for c in options['c']
            if a.cost + b.cost + c.cost <= budget
        )  # fmt: skip
        assert sum(o.cost for o in chosen.values()) <= budget
        assert sum(o.lost for o in chosen.values()) <= best + 1e-9
    assert all(o.rank is None for o in choose(options, 4.6).values())
    with pytest.raises(ValueError, match='least cost'):
        choose(options, 0.01)


def test_rounding_stays_below_break_even():
    assert round_rank(9, 8, 14.4) == 9
    assert round_rank(9, 8, 57.6) == 16
    assert round_rank(8, 8, 14.4) == 8
    assert round_rank(15, 8, 14.4) is None
    assert candidate_ranks(14.4, 8) == [8] and candidate_ranks(3.0, 8) == [1, 2]
    assert candidate_ranks(57.6, 8, 3) == [8, 32, 56]


def test_a_config_rebuilds_the_model():
    config = {'type': 'mmext.LowRank', 'ranks': {'backbone.conv1': 6},
              'data_preprocessor': {'type': 'mmpretrain.ClsDataPreprocessor', 'mean': [7.0],
                                    'std': [2.0]},
              'model': {'type': 'mmpretrain.ImageClassifier',
                        'backbone': {'type': 'mmpretrain.ResNet_CIFAR', 'depth': 18,
                                     'base_channels': 8, 'stem_channels': 8}}}  # fmt: skip
    built = MODELS.build(copy.deepcopy(config))
    assert type(built).__name__ == 'ImageClassifier'
    assert built.data_preprocessor.mean.flatten().tolist() == [7.0]
    assert built.backbone.conv1.basis.weight.shape == (6, 3, 3, 3)
    config['ranks'] = {'backbone.bn1': 6}
    with pytest.raises(ValueError, match="'backbone.bn1' is no convolution of ImageClassifier"):
        MODELS.build(config)
    with pytest.raises(ValueError, match="method='cp'"):
        MODELS.build({**config, 'method': 'cp'})
