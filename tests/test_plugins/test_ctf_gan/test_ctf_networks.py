"""Generator, discriminator and transfer network against independent computations."""

import pytest
import torch
from gans import build, model_cfg
from mmengine.registry import MODELS
from torch import nn

from mmext.plugins.ctf_gan import ProjDiscriminator, SNGANGenerator, TransferNet
from mmext.plugins.ctf_gan.layers import ConditionalNorm, DiscriminatorBlock, GeneratorBlock


def randomise(network):
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)


def test_conditional_norm_is_batch_norm_with_the_scale_of_the_class():
    norm = ConditionalNorm(4, num_classes=3)
    inputs, label = torch.randn(6, 4, 5, 5), torch.tensor([0, 1, 2, 0, 1, 2])
    plain = nn.functional.batch_norm(inputs, None, None, training=True)
    assert torch.allclose(norm(inputs, label), plain, atol=1e-6), 'starts as plain batch norm'
    randomise(norm)
    expected = torch.stack(
        [
            plain[i] * norm.scale.weight[c][:, None, None] + norm.shift.weight[c][:, None, None]
            for i, c in enumerate(label)
        ]
    )
    assert torch.allclose(norm(inputs, label), expected, atol=1e-6)


def test_generator_block_enlarges_before_its_convolutions():
    block = GeneratorBlock(3, 5, num_classes=2).double()
    randomise(block)
    inputs, label = torch.randn(4, 3, 4, 4).double(), torch.tensor([0, 1, 1, 0])
    large = inputs.repeat_interleave(2, 2).repeat_interleave(2, 3)
    hidden = block.norm1(inputs, label).relu().repeat_interleave(2, 2).repeat_interleave(2, 3)
    hidden = block.conv2(block.norm2(block.conv1(hidden), label).relu())
    assert torch.allclose(block(inputs, label), hidden + block.shortcut(large))


@pytest.mark.parametrize('first', [True, False])
def test_discriminator_block_averages_after_its_convolutions(first):
    block = DiscriminatorBlock(3, 5, down=True, first=first, spectral=False).double()
    inputs = torch.randn(2, 3, 8, 8).double()
    hidden = inputs if first else inputs.relu()
    whole = block.conv2(block.conv1(hidden).relu()) + block.shortcut(inputs)
    assert torch.allclose(block(inputs), nn.functional.avg_pool2d(whole, 2))


@pytest.mark.parametrize(
    'size, settings',
    [(28, dict(input_scale=7)), (32, {}), (48, dict(input_scale=6)), (64, {}), (128, {})],
)
def test_the_defaults_fit_the_usual_sizes(size, settings):
    generator = SNGANGenerator(size, base_channels=1, out_channels=3, noise_size=4, **settings)
    discriminator = ProjDiscriminator(size, base_channels=1, rotation=True)
    images = generator(torch.randn(2, 4))
    assert images.shape == (2, 3, size, size) and images.abs().max() <= 1
    found = discriminator(images)
    assert found.scores.shape == (2,) and found.rotation.shape == (2, 4) and found.classes is None


@pytest.mark.parametrize(
    'kind, settings, message',
    [
        (SNGANGenerator, dict(output_scale=28), 'choose another input_scale'),
        (SNGANGenerator, dict(output_scale=4), 'must be input_scale'),
        (SNGANGenerator, dict(class_size=4), 'needs num_classes'),
        (SNGANGenerator, dict(output_scale=16), 'one factor for each of the 2 blocks'),
        (SNGANGenerator, dict(output_scale=32, channels_cfg=[1, 1]), 'of the 3 blocks'),
        (ProjDiscriminator, dict(input_scale=20), 'one entry per block'),
        (ProjDiscriminator, dict(channels_cfg=[1]), 'one entry per block'),
        (ProjDiscriminator, dict(input_scale=2, channels_cfg=[1, 1], downsample_cfg=[True, True]),
         'to none'),
        (ProjDiscriminator, dict(pooling='mean'), "must be 'sum' or 'none'"),
        (ProjDiscriminator, dict(auxiliary=True), 'needs num_classes'),
        (TransferNet, dict(output_scale=28, scales=(8,)), 'divided by 2, 4'),
        (TransferNet, dict(output_scale=32, scales=(32,)), 'divided by 2, 4'),
        (TransferNet, dict(scales=()), 'divided by 2, 4'),
        (TransferNet, dict(mode='both'), 'feature, residual'),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit(kind, settings, message):
    with pytest.raises(ValueError, match=message):
        kind(**settings)


def test_bad_inputs_of_the_networks():
    generator = SNGANGenerator(8, num_classes=3, base_channels=2, noise_size=4, channels_cfg=[1])
    with pytest.raises(ValueError, match=r'noise must be \(N, 4\)'):
        generator(torch.randn(2, 5))
    with pytest.raises(ValueError, match='one label per noise vector'):
        generator(torch.randn(2, 4))
    discriminator = ProjDiscriminator(8, 3, 2, channels_cfg=[1], downsample_cfg=[True])
    with pytest.raises(ValueError, match='needs labels'):
        discriminator(torch.randn(2, 3, 8, 8))
    with pytest.raises(ValueError, match=r'images are \(3, 9, 9\).*takes \(3, 8, 8\)'):
        discriminator(torch.randn(2, 3, 9, 9), torch.tensor([0, 1]))
    transfer = TransferNet(8, (4,), num_classes=2, base_channels=2)
    with pytest.raises(ValueError, match='takes'):
        transfer(torch.randn(2, 1, 8, 8), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match='needs labels'):
        transfer(torch.randn(2, 3, 8, 8))


def test_the_score_is_linear_plus_projection():
    network = ProjDiscriminator(8, 3, 2, channels_cfg=[1, 2], downsample_cfg=[True, False]).eval()
    images, label = torch.randn(5, 3, 8, 8), torch.tensor([0, 1, 2, 0, 1])
    features = network.blocks(images).relu().flatten(2).sum(2)
    psi = features @ network.score.weight[0] + network.score.bias
    projection = torch.stack([f @ network.classes.weight[c] for f, c in zip(features, label)])  # noqa: B905
    assert torch.allclose(network(images, label)[0], psi + projection, atol=1e-5)


def test_without_pooling_each_position_counts():
    """Scores and logits are linear in the features of every position, class logits unbounded."""
    network = ProjDiscriminator(8, 3, 2, channels_cfg=[1, 2], downsample_cfg=[True, False],
                                auxiliary=True, rotation=True, pooling='none').eval()  # fmt: skip
    images, label = torch.randn(5, 3, 8, 8), torch.tensor([0, 1, 2, 0, 1])
    features = network.blocks(images).relu().flatten(1)
    assert features.shape == (5, 4 * 4 * 4)
    found = network(images, label)
    psi = features @ network.score.weight[0] + network.score.bias
    projection = (features * network.classes.weight[label]).sum(1)
    assert torch.allclose(found.scores, psi + projection, atol=1e-5)
    assert torch.allclose(found.classes, features @ network.auxiliary.weight.T, atol=1e-5)
    assert not hasattr(network.auxiliary, 'parametrizations')
    assert found.rotation.shape == (5, 4)


def test_spectral_norm_divides_by_the_largest_singular_value():
    network = ProjDiscriminator(8, 3, 4, channels_cfg=[1, 2], downsample_cfg=[True, False],
                                rotation=True)  # fmt: skip
    for _ in range(200):
        network(torch.randn(2, 3, 8, 8), torch.tensor([0, 1]))
    layers = {n: m for n, m in network.named_modules() if hasattr(m, 'parametrizations')}
    names = {'score', 'classes', 'rotation', 'blocks.0.conv1', 'blocks.1.shortcut'}
    assert names <= set(layers)
    for name, layer in layers.items():
        raw = layer.parametrizations.weight.original.detach().flatten(1)
        expected = raw / torch.linalg.matrix_norm(raw, 2)
        assert torch.allclose(layer.weight.flatten(1), expected, atol=1e-3), name


def test_gate_zero_is_the_baseline_bit_for_bit():
    """Images and the gradients of all that the baseline has; the gates start at zero."""
    baseline, ours = build(transfer=False), build(transfer=True)
    noise, label = torch.randn(6, 6), torch.tensor([0, 1, 2, 0, 1, 2])
    randomise(ours.transfer)
    found = [
        baseline.generator(noise, label),
        ours.generator(noise, label, transfer=ours.transfer),
    ]
    assert torch.equal(*found)
    for model, images in zip((baseline, ours), found, strict=True):
        model.discriminator(images, label)[0].mean().backward()
    theirs = dict(ours.named_parameters())
    names = [name for name, _ in baseline.named_parameters()]
    assert names
    for name, parameter in baseline.named_parameters():
        assert torch.equal(parameter, theirs[name]), f'{name}: initial weights'
        assert torch.equal(parameter.grad, theirs[name].grad), f'{name}: gradient'
    gate = ours.generator.injections['4'].gate
    assert gate.grad.abs().sum() > 0, 'the gate learns from zero on'
    with torch.no_grad():
        gate.fill_(0.5)
    assert not torch.equal(ours.generator(noise, label, transfer=ours.transfer), found[0])


def test_the_generator_transfers_its_own_stage_or_given_images():
    model = build()
    randomise(model.transfer)
    for injection in model.generator.injections.values():
        nn.init.ones_(injection.gate)
    noise, label = torch.randn(4, 6), torch.tensor([0, 1, 2, 0])
    seen = []

    def spy(lq, labels):
        seen.append(lq)
        return model.transfer(lq, labels)

    images, shown = model.generator(noise, label, transfer=spy, return_lq=True)
    assert shown.shape == (4, 1, 4, 4) and seen[0].shape == (4, 1, 16, 16)
    large = nn.functional.interpolate(shown, size=(16, 16), mode='bilinear')
    assert torch.equal(seen[0], large)
    given = torch.randn(4, 1, 16, 16)
    others = model.generator(noise, label, transfer=spy, lq=given)
    assert seen[1] is given and not torch.equal(others, images)
    assert model.generator(noise, label, return_lq=True)[1] is None


def test_injections_need_a_stage():
    for scales in ((2, 4), (16,), ()):
        with pytest.raises(ValueError):
            cfg = model_cfg(transfer=False)
            MODELS.build({**cfg, 'transfer': dict(type='mmext.TransferNet', scales=scales)})


def test_a_class_vector_joins_the_noise():
    noise = torch.randn(1, 4).repeat(2, 1)
    label = torch.tensor([0, 1])
    settings = dict(output_scale=8, num_classes=2, base_channels=2, noise_size=4, channels_cfg=[1])
    by_norm = SNGANGenerator(**settings).eval()(noise, label)
    assert torch.equal(by_norm[0], by_norm[1]), 'scale and shift start alike'
    network = SNGANGenerator(**settings, class_size=3).eval()
    by_vector = network(noise, label)
    assert network.linear.in_features == 7 and not torch.equal(by_vector[0], by_vector[1])


def test_the_transfer_network_starts_as_the_identity():
    network = TransferNet(16, (4, 8), base_channels=4)
    lq = torch.randn(3, 3, 16, 16)
    hq, features = network(lq)
    assert torch.equal(hq, lq)
    assert {scale: f.shape for scale, f in features.items()} == {
        4: (3, 16, 4, 4), 8: (3, 8, 8, 8)
    }  # fmt: skip


def test_residual_features_are_differences_of_encodings():
    network = TransferNet(16, (8,), base_channels=4, mode='residual')
    lq = torch.randn(3, 3, 16, 16)
    assert network(lq)[1][8].abs().max() == 0, 'nothing changes, so nothing is transferred'
    randomise(network)
    hq, features = network(lq)

    def encode(images):
        return network.down[0](network.stem(images).relu()).relu()

    assert torch.allclose(features[8], encode(hq) - encode(lq), atol=1e-5)


def test_the_class_reaches_the_transfer_network():
    network = TransferNet(16, (4,), num_classes=2, base_channels=4)
    randomise(network)
    lq = torch.randn(1, 3, 16, 16)
    first, second = (network(lq, torch.tensor([c]))[0] for c in (0, 1))
    assert not torch.equal(first, second)
