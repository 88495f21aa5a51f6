"""The training step: who learns from what, and how often."""

import copy
from contextlib import contextmanager

import pytest
import torch
from gans import RATES, batch, build, model_cfg, wrappers
from mmengine.logging import MessageHub
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS

from mmext.engine import phases
from mmext.plugins.ctf_gan import GANOptimWrapperConstructor
from mmext.plugins.ctf_gan import functional as F
from mmext.plugins.ctf_gan.averaging import GeneratorAverage
from mmext.plugins.ctf_gan.model import frozen
from mmext.plugins.ctf_gan.sampling import STREAM

NETWORKS = ('generator', 'discriminator', 'transfer')


@pytest.fixture(autouse=True)
def hub():
    """Iteration 0 of a run with seed 0."""
    hub = MessageHub.get_current_instance()
    hub.update_info('iter', 0)
    hub.update_info('seed', 0)
    return hub


def weights(network):
    return [parameter.detach().clone() for parameter in network.parameters()]


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def has_gradient(network):
    return any(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_gradients_stay_in_the_network_whose_turn_it_is():
    """Also with wrappers that would show a leak: nothing zeroes gradients but the owner's step."""
    model = build(self_supervision=dict(), ema=dict())
    optim = wrappers(model)
    turns = []
    for name, wrapper in phases.members(optim).items():

        def look(name=name):
            turns.append(name)
            for other in NETWORKS:
                assert has_gradient(getattr(model, other)) == (other == name), (name, other)
            assert not has_gradient(model.generator_ema)

        phases.attach(wrapper).register('after_backward', look, 'look')
    for _ in range(2):
        model.train_step(batch(hq=6), optim)
    assert turns == ['discriminator', 'generator', 'transfer'] * 2
    flags = {name: [p.requires_grad for p in getattr(model, name).parameters()]
             for name in NETWORKS}  # fmt: skip
    assert all(all(found) for found in flags.values()), 'frozen for their turn only'


def test_every_parameter_gets_a_gradient():
    """DistributedDataParallel with find_unused_parameters=False needs that."""
    model = build(self_supervision=dict(), auxiliary_classifier=dict())
    optim = wrappers(model)
    for name, wrapper in phases.members(optim).items():

        def look(name=name):
            for key, parameter in getattr(model, name).named_parameters():
                assert parameter.grad is not None, f'{name}.{key}'

        phases.attach(wrapper).register('after_backward', look, 'look')
    model.train_step(batch(), optim)


def test_frozen_lets_gradients_through_and_comes_back_after_an_error():
    network = torch.nn.Linear(2, 2)
    network.bias.requires_grad_(False)
    inputs = torch.ones(1, 2, requires_grad=True)
    with pytest.raises(RuntimeError), frozen(network, None):
        network(inputs).sum().backward()
        assert inputs.grad is not None and network.weight.grad is None
        raise RuntimeError
    assert network.weight.requires_grad and not network.bias.requires_grad


def test_the_losses_of_the_discriminator():
    """Recomputed with separate forward passes of a copy."""
    model = build(self_supervision=dict(disc_weight=0.7), ctf=dict(adv_weight=0.3),
                  auxiliary_classifier=dict(disc_weight=0.6))  # fmt: skip
    twin = copy.deepcopy(model)
    data = batch(hq=6)
    log = model.train_step(data, wrappers(model))
    images = data['inputs']['img'].float() / 127.5 - 1
    lq = data['inputs']['lq'].float() / 127.5 - 1
    label = torch.arange(8) % 3
    noise, fake_label = twin.draw(6, 0, STREAM, 0, 0, 0)
    fake = twin.generator(noise, fake_label, transfer=twin.transfer)
    made = twin.transfer(lq[-1:], label[-1:])[0]
    # One power iteration per forward: the copy may do only one, too.
    twin.discriminator(torch.cat([images[:1]]), label[:1])
    twin.discriminator.eval()
    real_score, fake_score = (
        twin.discriminator(*pair)[0] for pair in ((images[:6], label[:6]), (fake, fake_label))
    )
    turns = torch.cat([images[:1].rot90(k, (2, 3)) for k in range(4)])
    logits = twin.discriminator(turns, label[:1].repeat(4))[1]
    rotation = torch.nn.functional.cross_entropy(logits, torch.arange(4))
    told = twin.discriminator(images[:6], label[:6]).classes
    expected = {
        'loss_disc_real': (1 - real_score).relu().mean(),
        'loss_disc_fake': (1 + fake_score).relu().mean(),
        'loss_disc_rotation': 0.7 * rotation,
        'loss_disc_class': 0.6 * torch.nn.functional.cross_entropy(told, label[:6]),
        'class_accuracy': (told.argmax(1) == label[:6]).float().mean(),
        'loss_disc_transfer': 0.3 * (1 + twin.discriminator(made, label[-1:])[0]).relu().mean(),
        'score_real': real_score.mean(),
        'score_fake': fake_score.mean(),
    }
    for name, value in expected.items():
        assert log[name].item() == pytest.approx(value.item(), abs=1e-4), name


def test_the_losses_of_generator_and_transfer_network():
    model = build(self_supervision=dict(gen_weight=0.5), ctf=dict(adv_weight=0.2, lq_weight=2.0),
                  auxiliary_classifier=dict(gen_weight=0.3))  # fmt: skip
    stopped = dict(type='SGD', lr=0.0)
    twin = copy.deepcopy(model)
    data = batch(hq=8)
    log = model.train_step(data, wrappers(model, stopped))
    twin.generator.train()
    noise, label = twin.draw(8, 0, STREAM, 0, 0, 0)
    twin.generator(noise, label, transfer=twin.transfer)
    noise, label = twin.draw(8, 0, STREAM, 0, 0, 1)
    fake, shown = twin.generator(noise, label, transfer=twin.transfer, return_lq=True)
    # Same power iterations as the model had by then.
    for _ in range(2):
        twin.discriminator(fake, label)
    twin.discriminator.eval()
    turns = torch.cat([fake[:2].rot90(k, (2, 3)) for k in range(4)])
    logits = twin.discriminator(turns, label[:2].repeat(4))[1]
    angles = torch.arange(4).repeat_interleave(2)
    told = twin.discriminator(fake, label).classes
    lq, images = (data['inputs'][k].float() / 127.5 - 1 for k in ('lq', 'img'))
    expected = {
        'loss_gen': -twin.discriminator(fake, label)[0].mean(),
        'loss_gen_rotation': 0.5 * torch.nn.functional.cross_entropy(logits, angles),
        'loss_gen_class': 0.3 * torch.nn.functional.cross_entropy(told, label),
        'loss_gen_lq': 2 * (shown - F.shrink(fake, 4)).abs().mean(),
        'loss_transfer_rec': 10 * (lq - images).abs().mean(),
    }
    for name, value in expected.items():
        assert log[name].item() == pytest.approx(value.item(), abs=1e-4), name


def test_iterations_count_steps_of_the_discriminator(hub):
    model = build(discriminator_steps=3, ema=dict())
    optim = wrappers(model)
    moved = []
    for iteration in range(6):
        hub.update_info('iter', iteration)
        before = {name: weights(getattr(model, name)) for name in (*NETWORKS, 'generator_ema')}
        log = model.train_step(batch(), optim)
        moved.append([not same(old, weights(getattr(model, name))) for name, old in before.items()])
        assert ('loss_gen' in log) == (iteration % 3 == 2)
    # The first average is a copy of a generator that has moved.
    assert moved == [[False, True, False, False]] * 2 + [[True] * 4] + [
        [False, True, False, False]
    ] * 2 + [[True] * 4]


def test_low_quality_images_are_never_real_for_a_gan_with_transfer():
    """What the high-quality version of a low-quality sample was does not matter."""

    def trained(transfer, level):
        model = build(transfer=transfer)
        data = batch(hq=6)
        data['inputs']['img'][6:] = level
        model.train_step(data, wrappers(model))
        return [w for n in NETWORKS if getattr(model, n) is not None
                for w in weights(getattr(model, n))]  # fmt: skip

    assert same(trained(True, 0), trained(True, 255))
    assert not same(trained(False, 0), trained(False, 255)), 'without T all images are real'


def test_draws_depend_on_seed_rank_and_iteration(hub):
    model = build()
    keys = [(0, STREAM, 0, 0, 0), (1, STREAM, 0, 0, 0), (0, STREAM, 1, 0, 0), (0, STREAM, 0, 1, 0)]
    found = [model.draw(4, *key)[0] for key in keys]
    assert torch.equal(found[0], model.draw(4, *keys[0])[0])
    assert all(not torch.equal(found[0], other) for other in found[1:])


@pytest.mark.parametrize('start_iter, interval', [(0, 1), (3, 1), (0, 2)])
def test_the_average_against_the_formula(start_iter, interval):
    source = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)).double()
    average = GeneratorAverage(source, momentum=0.1, interval=interval, start_iter=start_iter)
    expected = None
    for step in range(7):
        with torch.no_grad():
            for value in (*source.parameters(), *source.buffers()):
                value.add_(torch.rand(value.shape).double() if value.is_floating_point() else 1)
        average.update_parameters(source)
        state = {k: v.clone() for k, v in source.state_dict().items()}
        if step == 0 or step < start_iter:
            expected = state
        else:
            moves = step % interval == 0
            expected = {
                k: (0.9 * expected[k] + 0.1 * v if moves else expected[k])
                if v.is_floating_point() else v
                for k, v in state.items()
            }  # fmt: skip
    for name, value in average.module.state_dict().items():
        assert torch.allclose(value, expected[name]), name


def test_the_average_waits_for_accumulated_gradients(hub):
    model = build(ema=dict())
    optim = wrappers(model, accumulative_counts=2)
    for iteration in range(4):
        hub.update_info('iter', iteration)
        model.train_step(batch(), optim)
    assert model.generator_ema.steps == 2


def test_accumulation_goes_on_in_step_after_a_resume(hub):
    """Two iterations are a turn of the generator; each accumulates two turns."""

    def updates(begin, end):
        model = build(discriminator_steps=2)
        optim = wrappers(model, accumulative_counts=2)
        optim.initialize_count_status(model, begin, 8)
        found = []
        for iteration in range(begin, end):
            hub.update_info('iter', iteration)
            before = [weights(getattr(model, name)) for name in NETWORKS]
            model.train_step(batch(), optim)
            after = [weights(getattr(model, name)) for name in NETWORKS]
            found.append([not same(*pair) for pair in zip(before, after, strict=True)])
        return found

    whole = updates(0, 8)
    assert [row[NETWORKS.index('discriminator')] for row in whole] == [False, True] * 4
    assert [row[NETWORKS.index('generator')] for row in whole] == [False, False, False, True] * 2
    for begin in (3, 4, 6):
        assert updates(begin, 8) == whole[begin:]


def test_a_bank_gives_images_of_the_class():
    model = build(ctf=dict(ctf_source='bank', bank_size=2))
    assert model.generator.to_lq is None
    model.train_step(batch(count=8), wrappers(model))
    assert model.bank_count.tolist() == [3, 3, 2]
    lq = model.data_preprocessor.scale(batch(count=8)['inputs']['lq'])
    label = torch.arange(3).repeat_interleave(20)
    # The distribution function of 9 is 1 in float32.
    assert len(model._from_bank(torch.full((3, 6), 9.0), torch.arange(3))) == 3
    found = model._from_bank(torch.randn(60, 6), label)
    # Two slots: the third image of a class has replaced its first.
    kept = {0: (6, 3), 1: (7, 4), 2: (2, 5)}
    for image, number in zip(found, label.tolist(), strict=True):
        assert any(torch.equal(image, lq[i]) for i in kept[number])
    assert len({image.sum().item() for image in found}) == 6
    assert torch.equal(model.state_dict()['bank'], model.bank)


def test_without_a_source_there_is_no_transfer():
    model = build(ctf=dict(ctf_source='none'))
    assert model.transfer is None and not model.generator.injections
    assert 'loss_transfer_rec' not in model.train_step(batch(), wrappers(model))


def test_unpaired_training_uses_the_discriminator_alone():
    model = build(ctf=dict(rec_weight=0.0))
    before = weights(model.transfer)
    log = model.train_step(batch(), wrappers(model))
    assert log['loss_transfer_rec'] == 0 and log['loss_transfer_adv'] != 0
    assert not same(before, weights(model.transfer))


def test_without_classes_labels_are_not_needed():
    model = build(classes=0)
    data = batch()
    for sample in data['data_samples']:
        del sample.gt_label
    assert torch.isfinite(model.train_step(data, wrappers(model))['loss_gen'])


class Bfloat16(OptimWrapper):
    """Mixed precision on a CPU, where MMEngine's AmpOptimWrapper refuses to run."""

    @contextmanager
    def optim_context(self, model):
        with super().optim_context(model), torch.autocast('cpu', torch.bfloat16):
            yield


def test_mixed_precision_keeps_losses_and_weights_in_float32():
    model = build(self_supervision=dict(), auxiliary_classifier=dict(), ema=dict())
    optim = wrappers(model)
    for name, wrapper in optim.optim_wrappers.items():
        optim.optim_wrappers[name] = Bfloat16(wrapper.optimizer)
    for _ in range(2):
        log = model.train_step(batch(), optim)
    assert all(value.dtype == torch.float32 and value.isfinite() for value in log.values())
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    'settings, message',
    [
        (dict(discriminator_steps=0), 'at least 1'),
        (dict(self_supervision=dict(weight=1)), 'unknown entries'),
        (dict(self_supervision=dict(gen_weight=-1)), 'not negative'),
        (dict(auxiliary_classifier=dict(disc_weight=-1)), 'auxiliary_classifier must be finite'),
        (dict(auxiliary_classifier=dict(), classes=0), 'needs num_classes > 0'),
        (dict(ctf=dict(ctf_source='memory')), 'generated, bank, none'),
        (dict(ctf=dict(rec_weight=0, adv_weight=0)), 'T would not learn'),
        (dict(ctf=dict(bank_size=0)), 'bank_size=0'),
        (dict(ema=dict(momentum=1.0)), 'share of the newest'),
        (dict(ema=dict(interval=0)), 'interval=0'),
        (dict(test_cfg=dict(sample_model='both')), 'ema, orig, ema/orig'),
        (dict(test_cfg=dict(num_fakes=0)), 'num_fakes=0'),
        (dict(test_cfg=dict(fakes=1)), 'unknown entries'),
    ],
)  # fmt: skip
def test_settings_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        build(**settings)


def test_networks_that_do_not_fit():
    for key, value in (('input_scale', 32), ('input_channels', 3), ('num_classes', 4)):
        cfg = model_cfg()
        cfg['discriminator'][key] = value
        with pytest.raises(ValueError, match='generator and discriminator differ'):
            MODELS.build(cfg)


def test_batches_that_do_not_fit():
    model = build()
    optim = wrappers(model)
    with pytest.raises(ValueError, match='no high-quality image'):
        model.train_step(batch(hq=0), optim)
    with pytest.raises(ValueError, match=r'labels 0..3 do not fit num_classes=3'):
        model.train_step(batch(classes=4), optim)
    plain = build(transfer=None, ctf=dict(adv_weight=0))
    for network, wrapper in ((model, optim), (plain, wrappers(plain))):
        with pytest.raises(
            ValueError, match='are 1 x 12 x 12, but the generator makes 1 x 16 x 16'
        ):
            network.train_step(batch(size=12), wrapper)
        with pytest.raises(ValueError, match='are 3 x 16 x 16'):
            network.train_step(batch(channels=3), wrapper)
    data = batch()
    del data['inputs']['lq']
    with pytest.raises(ValueError, match='mmext.Degrade'):
        model.train_step(data, optim)
    data = batch()
    del data['data_samples'][3].gt_label
    with pytest.raises(ValueError, match='needs gt_label'):
        model.train_step(data, optim)
    with pytest.raises(TypeError, match='default_collate'):
        model.train_step({**batch(), 'inputs': [torch.zeros(1, 16, 16)]}, optim)


def test_optim_wrappers_name_the_networks():
    model = build()
    entry = dict(optimizer=RATES)
    made = wrappers(model)
    assert list(made.optim_wrappers) == list(NETWORKS)
    ours = {id(p) for group in made['transfer'].optimizer.param_groups for p in group['params']}
    assert ours == {id(p) for p in model.transfer.parameters()}
    with pytest.raises(ValueError, match=r"\['transfer'\] have no optimizer"):
        GANOptimWrapperConstructor(dict(generator=entry, discriminator=entry))(model)
    both = dict.fromkeys((*NETWORKS, 'critic'), entry)
    with pytest.raises(ValueError, match=r"\['critic'\] are none of them"):
        GANOptimWrapperConstructor(both)(model)
    with pytest.raises(ValueError, match='belongs into the entry'):
        GANOptimWrapperConstructor(both, paramwise_cfg=dict(bias_lr_mult=2))
