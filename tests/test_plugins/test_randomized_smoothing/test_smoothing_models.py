"""The two models: noise in pixel space, padding, precision, streams, counts against oracles."""

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from mmpretrain.models.classifiers import BaseClassifier
from mmpretrain.structures import DataSample
from scipy.stats import norm

from mmext.plugins.randomized_smoothing import ADREClassifier, SmoothedClassifier
from mmext.plugins.randomized_smoothing.functional import ABSTAIN, adre_terms, smoothed_log_probs

PREPROCESSOR = dict(
    type='mmpretrain.ClsDataPreprocessor', mean=[100.0, 50.0, 20.0], std=[60.0, 90.0, 30.0]
)


class Linear(BaseClassifier):
    """Logits that are linear in the normalised inputs (3, 4, 4), and a record of the inputs."""

    def __init__(self, classes=2, seed=0):
        super().__init__(data_preprocessor=dict(PREPROCESSOR))
        torch.manual_seed(seed)
        self.linear = torch.nn.Linear(48, classes)
        self.seen = []

    def forward(self, inputs, data_samples=None, mode='tensor'):
        self.seen.append(inputs.detach())
        return self.linear(inputs.flatten(1))


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmpretrain')


def samples(labels, **meta):
    return [DataSample(metainfo=meta).set_gt_label(int(label)) for label in labels]


def lenet(classes=10, **kwargs):
    return dict(
        type='ImageClassifier',
        data_preprocessor=dict(mean=[78.0], std=[97.0]),
        backbone=dict(type='mmext.StridedLeNet', features=16),
        head=dict(type='LinearClsHead', num_classes=classes, in_channels=16),
        **kwargs,
    )


def normalised(pixels):
    mean, std = (torch.tensor(PREPROCESSOR[key]).reshape(3, 1, 1) for key in ('mean', 'std'))
    return (255 * pixels - mean) / std


def to_pixels(inputs):
    mean, std = (torch.tensor(PREPROCESSOR[key]).reshape(3, 1, 1) for key in ('mean', 'std'))
    return (inputs * std + mean) / 255


def test_training_noise_lives_in_pixels_and_is_not_clipped():
    model = ADREClassifier(Linear(), sigma=0.5, num_noise=400)
    pixels = torch.rand(2, 3, 4, 4)
    model.loss(normalised(pixels), samples([0, 1]))
    seen = model.classifier.seen[-1].reshape(400, 2, 3, 4, 4)
    noise = to_pixels(seen) - pixels
    assert float((pixels + noise).max()) > 1.5
    # Per channel, whatever its std in the data preprocessor.
    np.testing.assert_allclose(noise.std((0, 1, 3, 4)), 0.5, rtol=0.02)
    np.testing.assert_allclose(noise.mean((0, 1, 3, 4)), 0.0, atol=0.02)


def test_training_noise_is_none_of_the_global_generator():
    """Nor do two losses of one iteration share it."""

    def noisy(model):
        state = torch.get_rng_state()
        model.loss(normalised(torch.full((2, 3, 4, 4), 0.5)), samples([0, 1]))
        assert torch.equal(torch.get_rng_state(), state)
        return model.classifier.seen[-1]

    first, again = ADREClassifier(Linear(), sigma=0.5), ADREClassifier(Linear(seed=1), sigma=0.5)
    expected = [noisy(first), noisy(first)]
    torch.rand(5)
    assert torch.equal(noisy(again), expected[0]) and torch.equal(noisy(again), expected[1])
    assert not torch.equal(*expected)


def test_the_loss_is_the_risk_of_the_noisy_logits():
    model = ADREClassifier(Linear(5), sigma=0.3, num_noise=4, adre_weight=0.7)
    labels = torch.tensor([0, 4, 2])
    losses = model(normalised(torch.rand(3, 3, 4, 4)), samples(labels), mode='loss')
    logits = model.classifier.linear(model.classifier.seen[-1].flatten(1)).unflatten(0, (4, 3))
    perturbed, adre = adre_terms(logits, labels)
    torch.testing.assert_close(losses['loss_perturbed'], perturbed)
    torch.testing.assert_close(losses['loss_adre'], 0.7 * adre)
    total, logged = model.parse_losses(losses)
    torch.testing.assert_close(total, perturbed + 0.7 * adre)
    share = (smoothed_log_probs(logits).argmax(1) == labels).float().mean()
    assert logged['smoothed/accuracy'] == 100 * share
    assert not losses['smoothed/runner_up'].requires_grad


def test_the_data_preprocessor_of_a_config_reaches_the_classifier():
    """MMEngine's Runner passes it to the outer model; the classifier's own one wins."""
    given = dict(mean=[10.0], std=[20.0])
    bare = {key: value for key, value in lenet().items() if key != 'data_preprocessor'}
    for classifier, mean in ((bare, 10.0), (lenet(), 78.0)):
        model = ADREClassifier(classifier, sigma=0.5, data_preprocessor=given)
        assert model.data_preprocessor is model.classifier.data_preprocessor
        assert model.data_preprocessor.mean.item() == mean


def test_padding_is_neither_noised_nor_attacked():
    model = ADREClassifier(Linear(), 0.5, num_noise=3, adversarial=dict(eps=0.5, steps=2))
    # Value 9 is far outside the box: clipping to it would show.
    inputs = torch.full((2, 3, 4, 4), 9.0)
    inputs[:, :, :3, :2] = normalised(torch.rand(2, 3, 3, 2))
    model.loss(inputs, samples([0, 1], img_shape=(3, 2)))
    for seen in model.classifier.seen:
        kept = seen.reshape(3, 2, 3, 4, 4)
        torch.testing.assert_close(kept[..., 3:, :], torch.full((3, 2, 3, 1, 4), 9.0))
        torch.testing.assert_close(kept[..., 2:], torch.full((3, 2, 3, 4, 2), 9.0))
        assert float((kept[:, :, :, :3, :2] - inputs[:, :, :3, :2]).abs().min()) > 0
    smoothed = SmoothedClassifier(model.classifier, 0.5, n0=8, n=8)
    del model.classifier.seen[:]
    smoothed.predict(inputs, samples([0, 1], img_shape=(3, 2)))
    torch.testing.assert_close(model.classifier.seen[-1][:, :, 3], torch.full((16, 3, 4), 9.0))


def test_the_attack_keeps_the_noise_and_lowers_the_own_class():
    model = ADREClassifier(Linear(3), 0.4, num_noise=6, adversarial=dict(eps=0.6, steps=2))
    pixels, labels = torch.rand(4, 3, 4, 4), torch.tensor([0, 1, 2, 0])
    model.loss(normalised(pixels), samples(labels))
    first, *_, last = (seen.reshape(6, 4, 3, 4, 4) for seen in model.classifier.seen)
    assert len(model.classifier.seen) == 3
    # The same shift for all copies of an image: they share the attack, each keeps its noise.
    shift = to_pixels(last) - to_pixels(first)
    torch.testing.assert_close(shift, shift[:1].expand_as(shift), rtol=0, atol=1e-5)
    assert (shift[0].flatten(1).norm(dim=1) > 0.1).all()
    assert (shift[0].flatten(1).norm(dim=1) < 0.6 + 1e-4).all()
    log_g = [
        smoothed_log_probs(model.classifier.linear(v.flatten(2))).gather(1, labels[:, None])
        for v in (first, last)
    ]
    assert (log_g[1] < log_g[0]).all()


def test_parameters_get_gradients_and_flags_survive_the_attack():
    model = MODELS.build(
        dict(type='mmext.ADREClassifier', classifier=lenet(), sigma=0.25, num_noise=2,
             adversarial=dict(eps=0.5, steps=1))
    )  # fmt: skip
    model.train()
    model.classifier.head.eval()
    total, _ = model.parse_losses(model.loss(torch.randn(3, 1, 28, 28), samples([1, 2, 3])))
    total.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    assert model.classifier.backbone.training and not model.classifier.head.training


def test_mixed_precision_trains_on_float32_risk():
    model = MODELS.build(dict(type='mmext.ADREClassifier', classifier=lenet(), sigma=0.25,
                              adversarial=dict(eps=0.5, steps=1)))  # fmt: skip
    dtypes = []
    model.classifier.head.register_forward_hook(lambda *args: dtypes.append(args[-1].dtype))
    with torch.autocast('cpu', dtype=torch.bfloat16):
        losses = model.loss(torch.randn(3, 1, 28, 28), samples([1, 2, 3]))
    # Attack in float32, training pass in half precision, risk in float32.
    assert dtypes == [torch.float32, torch.bfloat16]
    total, _ = model.parse_losses(losses)
    assert total.dtype == torch.float32
    total.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_prediction_is_the_mean_probability_under_repeatable_noise():
    model = ADREClassifier(Linear(3), sigma=1.0, num_noise=5)
    inputs = normalised(torch.rand(2, 3, 4, 4))
    first, second = (model(inputs, samples([0, 0]), mode='predict') for _ in range(2))
    logits = model.classifier.linear(model.classifier.seen[-1].flatten(1)).unflatten(0, (5, 2))
    expected = logits.softmax(2).mean(0)
    for index in range(2):
        torch.testing.assert_close(first[index].pred_score, expected[index].detach())
        assert torch.equal(first[index].pred_score, second[index].pred_score)
        assert first[index].pred_label.item() == expected[index].argmax()


def vit():
    return dict(
        type='ImageClassifier',
        backbone=dict(
            type='VisionTransformer', img_size=16, patch_size=8,
            arch=dict(embed_dims=8, num_layers=2, num_heads=2, feedforward_channels=16),
        ),
        head=dict(type='VisionTransformerClsHead', num_classes=3, in_channels=8),
    )  # fmt: skip


def test_layer_decay_sees_the_layers_of_the_classifier(layer_rates):
    bare = layer_rates(MODELS.build(vit()))
    model = layer_rates(
        MODELS.build(dict(type='mmext.ADREClassifier', classifier=vit(), sigma=0.5))
    )
    assert model == {f'classifier.{name}': rate for name, rate in bare.items()}
    assert len(set(bare.values())) == 4


def true_radius(model, pixels):
    """Distance of each image to the plane where the linear model changes its mind, signed."""
    std = torch.tensor(PREPROCESSOR['std']).reshape(3, 1, 1)
    weight = (model.linear.weight[0] - model.linear.weight[1]).reshape(3, 4, 4)
    margin = (normalised(pixels) * weight).flatten(1).sum(1)
    margin += model.linear.bias[0] - model.linear.bias[1]
    return (margin / (255 * weight / std).norm()).detach().numpy()


@pytest.mark.parametrize('share_noise', [True, False])
def test_radii_of_a_linear_classifier_approach_the_true_distance(share_noise):
    """The smoothed linear classifier has p = Phi(distance / sigma): the certificate is tight."""
    base = Linear()
    model = SmoothedClassifier(base, 0.1, n=20_000, batch=4096, share_noise=share_noise)
    pixels = torch.rand(8, 3, 4, 4)
    distance = true_radius(base, pixels)
    prediction, radius = model.certify(pixels)
    sure = np.abs(distance) > 0.01
    assert sure.any()
    assert np.array_equal(prediction[sure], (distance[sure] < 0).astype(int))
    assert (radius <= np.abs(distance)).all()
    reached = norm.cdf(radius / 0.1) - norm.cdf(np.minimum(np.abs(distance), 0.29) / 0.1)
    assert (np.abs(reached[sure]) < 0.02).all()


def test_counts_equal_a_plain_loop_over_the_same_noise():
    base = Linear(4)
    model = SmoothedClassifier(base, 0.3, n0=10, n=37, batch=32, images=4)
    pixels = torch.rand(4, 3, 4, 4)
    sampled = model.sample(pixels, range(4))
    assert sampled.select.sum(1).tolist() == [10] * 4 and sampled.counts.sum(1).tolist() == [37] * 4
    noisy = torch.cat([seen.reshape(-1, 4, 3, 4, 4) for seen in base.seen])
    assert len(noisy) == 47
    wins = base.linear(noisy.flatten(2)).argmax(2)
    for image in range(4):
        for counts, part in ((sampled.select, wins[:10]), (sampled.counts, wins[10:])):
            assert counts[image].tolist() == [int((part[:, image] == c).sum()) for c in range(4)]
    # One draw for all images, another one for each chunk and for the selection.
    noise = to_pixels(noisy) - pixels
    torch.testing.assert_close(noise, noise[:, :1].expand_as(noise), rtol=0, atol=1e-6)
    flat = noise[:, 0].flatten(1)
    assert float(torch.cdist(flat, flat).fill_diagonal_(1).min()) > 0.1
    assert 0.28 < float(flat.std()) < 0.32


@pytest.mark.parametrize('share_noise', [True, False])
def test_an_image_has_the_same_counts_in_any_company(share_noise):
    model = SmoothedClassifier(Linear(4), 0.3, n0=16, n=100, share_noise=share_noise)
    pixels = torch.rand(5, 3, 4, 4)
    together = model.sample(pixels, range(5))
    alone = model.sample(pixels[3:4], [3])
    assert together.counts[3].tolist() == alone.counts[0].tolist()
    other = model.sample(pixels[3:4], [4])
    assert (other.counts[0].tolist() == alone.counts[0].tolist()) == share_noise
    model.seed = 1
    assert model.sample(pixels, range(5)).counts.tolist() != together.counts.tolist()


@pytest.mark.parametrize('method', ['cohen', 't_certify'])
def test_early_stop_decides_the_target_with_fewer_samples(method):
    base = Linear()
    pixels = torch.rand(16, 3, 4, 4)
    distance = np.abs(true_radius(base, pixels))
    target = float(np.median(distance))
    settings = dict(n=20_000, batch=1600, method=method)
    full = SmoothedClassifier(base, 0.1, **settings).sample(pixels, range(16))
    model = SmoothedClassifier(base, 0.1, target_radius=target, **settings)
    early = model.sample(pixels, range(16))
    used = early.counts.sum(1)
    assert used.max() == 20_000 and used.mean() < 15_000 and (used[used < 20_000] % 100 == 0).all()
    assert np.allclose(early.alpha[used == 20_000], 0.0005)
    _, radius = early.certify(0.1, method)
    _, all_samples = full.certify(0.1, method)
    assert (radius <= distance).all()
    # Decided alike but for images so close to the target that alpha / 2 matters.
    clear = np.abs(all_samples - target) > 0.01
    assert ((radius >= target) == (all_samples >= target))[clear].all() and clear.sum() > 8


def test_prediction_abstains_where_two_classes_are_alike():
    base = Linear()
    pixels = torch.rand(16, 3, 4, 4)
    distance = true_radius(base, pixels)
    # Onto the plane: both classes win half of the samples.
    std = torch.tensor(PREPROCESSOR['std']).reshape(3, 1, 1)
    weight = (base.linear.weight[0] - base.linear.weight[1]).detach().reshape(3, 4, 4) / std
    edge = pixels - torch.tensor(distance).reshape(-1, 1, 1, 1) * weight / weight.norm()
    model = SmoothedClassifier(base, 0.1, n=500, task='predict')
    found = model.predict(normalised(edge), samples([0] * 16))
    # At level alpha = 0.001 the chance of a class for any of 16 images is 1.6 %.
    assert [int(sample.pred_label) for sample in found] == [ABSTAIN] * 16
    far = pixels + torch.tensor(np.sign(distance)).reshape(-1, 1, 1, 1) * weight / weight.norm()
    found = model.predict(normalised(far), samples([0] * 16))
    assert [int(s.pred_label) for s in found] == [int(d < 0) for d in distance]
    assert 'certified_radius' not in found[0]


def test_checkpoints_of_the_bare_classifier_load_into_both():
    init_default_scope('mmpretrain')
    bare = MODELS.build(lenet())
    for kind in ('ADREClassifier', 'SmoothedClassifier'):
        model = MODELS.build(dict(type=f'mmext.{kind}', classifier=lenet(), sigma=0.5))
        model.load_state_dict(bare.state_dict())
        again = MODELS.build(dict(type=f'mmext.{kind}', classifier=lenet(), sigma=0.5))
        again.load_state_dict(model.state_dict())
        for one, two in zip(bare.parameters(), again.parameters(), strict=True):
            assert torch.equal(one, two)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(sigma=0), 'sigma=0 must be positive'),
        (dict(num_noise=0), 'num_noise=0'),
        (dict(adre_weight=-1), 'adre_weight=-1'),
        (dict(adversarial=dict(eps=1)), r'dict\(eps=..., steps=...\)'),
        (dict(adversarial=dict(eps=0, steps=2)), 'eps=0'),
        (dict(floor=1.0), 'floor=1.0'),
        (dict(bounds=(1, 0)), 'bounds'),
        (dict(classifier=lenet(train_cfg=dict(augments=dict(type='Mixup', alpha=0.8)))), 'Mixup'),
    ],
)
def test_wrong_training_settings(change, message):
    with pytest.raises(ValueError, match=message):
        MODELS.build({**dict(type='mmext.ADREClassifier', classifier=lenet(), sigma=0.5), **change})


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(sigma=-1), 'sigma=-1'),
        (dict(n=0), 'n=0'),
        (dict(alpha=0), 'alpha=0'),
        (dict(method='x'), "method='x'"),
        (dict(task='x'), "task='x'"),
        (dict(target_radius=0), 'target_radius=0'),
    ],
)
def test_wrong_certification_settings(change, message):
    with pytest.raises(ValueError, match=message):
        SmoothedClassifier(**{**dict(classifier=Linear(), sigma=0.5), **change})


def test_probabilities_and_foreign_labels_are_refused():
    class Softmax(Linear):
        def forward(self, *args, **kwargs):
            return super().forward(*args, **kwargs).softmax(1)

    with pytest.raises(ValueError, match='probabilities'):
        ADREClassifier(Softmax(), 0.5).loss(torch.rand(2, 3, 4, 4), samples([0, 1]))
    with pytest.raises(ValueError, match='probabilities'):
        SmoothedClassifier(Softmax(), 0.5, n=8).certify(torch.rand(2, 3, 4, 4))
    with pytest.raises(ValueError, match='label is 7.*2 classes'):
        ADREClassifier(Linear(), 0.5).loss(torch.rand(2, 3, 4, 4), samples([0, 7]))


def test_the_smoothed_classifier_does_not_train():
    with pytest.raises(NotImplementedError, match='ADREClassifier'):
        SmoothedClassifier(Linear(), 0.5)(torch.rand(1, 3, 4, 4), samples([0]), mode='loss')


def test_lenet_says_which_size_it_takes():
    with pytest.raises(ValueError, match='28x28 images, got'):
        MODELS.build(lenet())(torch.rand(1, 1, 32, 32))
