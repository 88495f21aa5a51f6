"""mmext.functional: without MMEngine, with MMEngine's classes as the oracle, and its page."""

import copy
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmengine.runner import Runner
from torch import nn
from torch.nn.functional import cross_entropy

import mmext
from mmext import functional
from mmext.engine import rng
from mmext.plugins.cst.functional import distribution_consistency
from mmext.plugins.guided_cw import cw_l2

ROOT = Path(__file__).parents[1]
# What a process begins with that has none of the OpenMMLab packages.
BLOCK = """
import sys

class Missing:
    @staticmethod
    def find_spec(name, path=None, target=None):
        top = name.partition('.')[0]
        if top in {packages!r}:
            raise ModuleNotFoundError(f'No module named {{name!r}}', name=top)

sys.meta_path.insert(0, Missing)
"""
OPENMMLAB = ('mmengine', 'mmcv', 'mmdet', 'mmpretrain')


def run_without(path, code, *before, packages=OPENMMLAB):
    """Run code as a script at ``path`` where packages are missing; return what it prints."""
    path.write_text(BLOCK.format(packages=packages) + code)
    done = subprocess.run(
        [sys.executable, *before, path], capture_output=True, text=True,
        env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


# ---- where MMEngine is missing -----------------------------------------------------------------


def test_importing_mmext_loads_neither_torch_nor_mmengine(tmp_path):
    code = """
import mmext
import mmext.commands, mmext.version
assert not {'torch', 'numpy', 'mmengine'} & set(sys.modules), sorted(sys.modules)
import mmext.functional
assert not {'mmengine', 'mmcv', 'scipy', 'cv2'} & set(sys.modules)
from mmengine.config import Config
open('mine.py', 'w').write("_base_ = 'mmext::smoothout/smoothout_c1_digits.py'")
assert 'mmext.SmoothOutHook' in [hook['type'] for hook in Config.fromfile('mine.py').custom_hooks]
assert not hasattr(Config.pretty_text.fget, 'remembers')
import mmext.registry
assert Config.pretty_text.fget.remembers
"""
    run_without(tmp_path / 'run.py', f'import os; os.chdir({str(tmp_path)!r})\n{code}', packages=())


def test_every_example_runs_without_mmengine(tmp_path):
    code = """
import doctest
import mmext

finder, runner = doctest.DocTestFinder(recurse=False), doctest.DocTestRunner()
for name in mmext.functional.__all__:
    for test in finder.find(getattr(mmext.functional, name), name, module=False, globs={}):
        runner.run(test)
print(runner.summarize())
"""
    told = run_without(tmp_path / 'run.py', code)
    assert re.search(r'failed=0, attempted=\d{2,}\)$', told.strip()), told


def test_a_registered_class_names_what_to_install(tmp_path):
    code = """
import mmext
for ask in ('mmext.SmoothOutHook', 'from mmext import SmoothOutHook', 'import mmext.registry'):
    try:
        exec(ask)
    except ImportError as error:
        print(error)
from mmext import functional, plugins, version
assert not hasattr(mmext, '__wrapped__') and mmext.functional is functional
"""
    first, second, third = run_without(tmp_path / 'run.py', code).strip().splitlines()
    assert first == second and first.startswith('mmext.SmoothOutHook needs MMEngine')
    assert re.search(r"pip install 'mmext\[\w+\]'; mmext.functional works", first)
    assert third == "No module named 'mmengine'"


def test_a_missing_library_names_its_extra(tmp_path):
    code = """
import torch
from mmext import functional as mf
x, y = torch.rand(2, 4), torch.tensor([0, 1])
for call in (lambda: mf.certify(torch.nn.Linear(4, 2), x, 0.5),
             lambda: mf.adre_loss(torch.nn.Linear(4, 2), x, y, 0.5),
             lambda: mf.stylize([], None)):
    try:
        call()
    except ImportError as error:
        print(error)
"""
    packages = (*OPENMMLAB, 'scipy', 'cv2')
    certify, adre, stylize = run_without(tmp_path / 'run.py', code, packages=packages).splitlines()
    assert certify == adre and 'needs the package scipy' in certify and 'mmext[data]' in certify
    assert 'stylize needs the package cv2' in stylize and 'mmext[video]' in stylize


@pytest.mark.parametrize('name', functional.__all__)
def test_every_function_is_documented(name):
    text = inspect.getdoc(getattr(functional, name))
    parts = ['Attributes:'] if name == 'Certificates' else ['Args:', 'Reference:', 'Example:']
    assert all(f'\n{part}' in text for part in parts), name


PAGE = re.findall(r'```python\n(.*?)```', (ROOT / 'docs/plain_pytorch.md').read_text(), re.DOTALL)


def test_the_page_runs_without_mmengine(tmp_path):
    blocks = [block for block in PAGE if not block.startswith('# train_ddp.py')]
    assert len(blocks) == len(PAGE) - 1
    told = run_without(tmp_path / 'page.py', ''.join(blocks))
    accuracies = [float(found) for found in re.findall(r'\b0\.\d{3}\b', told)]
    learned = [found for found in accuracies if found > 0.5]
    # Chance is 0.1. SmoothOut with force and decomposed, MAT, two teachers, source and target.
    assert len(learned) == 7 and min(learned) > 0.8, told
    assert 'inf' not in told and '20 frames of (240, 320, 3)' in told


def test_the_pages_ranks_run_without_mmengine(tmp_path):
    (block,) = [block for block in PAGE if block.startswith('# train_ddp.py')]
    launch = ['-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2']
    told = run_without(tmp_path / 'train_ddp.py', block, *launch)
    right, sent, floats = re.search(r'accuracy (\S+), (\d+) bytes .* (\d+)', told).groups()
    assert float(right) > 0.8 and int(floats) > 15 * int(sent)


# ---- the registered classes as the oracle --------------------------------------------------------


@pytest.mark.parametrize(
    ('name', 'cls', 'ours'),
    [
        ('smoothout', 'SmoothOutHook', {'model', 'generator'}),
        # Draws of a run of MMEngine take the run's seed.
        ('ternary_hook', 'TernGradOptimWrapper', {'ddp_model', 'seed'}),
        ('cw_attack', 'CWAttack', {'model', 'x', 'y', 'targeted'}),
        ('adversarial_loss', 'MATClassifier', {'model', 'x', 'y', 'criterion', 'generator'}),
        ('adre_loss', 'ADREClassifier', {'model', 'x', 'y', 'generator'}),
        ('certify', 'SmoothedClassifier', {'model', 'x'}),
        ('force_', 'ForceRegularizationHook', {'model', 'optimizer'}),
        ('mean_teacher_cycle', 'CycleTeacherHook', {'student1', 'student2'}),
    ],
)
def test_defaults_are_those_of_the_class(name, cls, ours):
    parameters = inspect.signature(getattr(functional, name)).parameters
    theirs = inspect.signature(getattr(mmext, cls)).parameters
    shared = {key: value.default for key, value in parameters.items() if key not in ours}
    assert shared and shared == {key: theirs[key].default for key in shared}


class Net(BaseModel):
    """A convolutional network with batch norm that MMEngine can train."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3, groups=2),
            nn.ReLU(), nn.Flatten(), nn.Linear(128, 4),
        )  # fmt: skip

    def forward(self, x, y=None, mode='tensor'):
        return self.net(x) if mode == 'tensor' else {'loss': cross_entropy(self.net(x), y)}


def batch(index, size=8):
    draws = torch.Generator().manual_seed(index)
    return (torch.rand(size, 1, 8, 8, generator=draws),
            torch.randint(4, (size,), generator=draws))  # fmt: skip


def trained_by_mmengine(work_dir, hook, optimizer, steps=3):
    """Weights after a few steps of MMEngine's Runner with a hook, seed 3."""
    data = [dict(x=x, y=y) for index in range(steps) for x, y in zip(*batch(index), strict=True)]
    runner = Runner(
        model=Net(),
        work_dir=str(work_dir),
        train_dataloader=dict(
            dataset=data,
            batch_size=8,
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=dict(type='default_collate'),
        ),
        train_cfg=dict(by_epoch=False, max_iters=steps),
        optim_wrapper=dict(optimizer=optimizer),
        custom_hooks=[hook],
        randomness=dict(seed=3),
        log_level='WARNING',
        experiment_name=work_dir.name,
    )
    runner.train()
    return runner.model.state_dict()


def trained_by_hand(optimizer, around=None, before_step=None, steps=3):
    model = Net()
    optimizer = getattr(torch.optim, optimizer['type'])(
        model.parameters(), **{k: v for k, v in optimizer.items() if k != 'type'}
    )
    for index in range(steps):
        x, y = batch(index)
        optimizer.zero_grad()
        if around:
            with around(model, index):
                cross_entropy(model(x), y).backward()
        else:
            cross_entropy(model(x), y).backward()
        if before_step:
            before_step(model, optimizer)
        optimizer.step()
    return model.state_dict()


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


SGD = dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=0.01)


@pytest.mark.parametrize('adapt', ['none', 'filter'])
def test_smoothout_is_the_hook_bit_for_bit(tmp_path, adapt):
    def around(model, index):
        draws = rng.generator(3, 'smoothout/', 0, index)
        return functional.smoothout(model, 0.1, adapt=adapt, exclude=['6'], generator=draws)

    hook = dict(type='mmext.SmoothOutHook', strength=0.1, adapt=adapt, exclude=['6'])
    wanted = trained_by_mmengine(tmp_path, hook, SGD)
    assert_same(trained_by_hand(SGD, around), wanted)
    assert any(not torch.equal(a, wanted[name]) for name, a in trained_by_hand(SGD).items())


@pytest.mark.parametrize('within', ['the body', 'the draw'])
def test_smoothout_restores_the_bits_after_an_exception(within):
    model = Net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    distribution = 'uniform' if within == 'the body' else 'cauchy'
    with (
        pytest.raises((ArithmeticError, ValueError)),
        functional.smoothout(model, 0.3, distribution=distribution),
    ):
        assert not torch.equal(model.net[0].weight, before['net.0.weight'])
        raise ArithmeticError('odd')
    assert_same(model.state_dict(), before)
    with pytest.raises(ValueError, match='strength=-1'), functional.smoothout(model, -1):
        pass


@pytest.mark.parametrize('optimizer', [SGD, dict(type='Adam', lr=0.01)], ids=['SGD', 'Adam'])
@pytest.mark.parametrize('mode', ['fixed', 'adaptive'])
def test_force_is_the_hook_bit_for_bit(tmp_path, optimizer, mode):
    settings = dict(strength=0.1, kind='l2', mode=mode, include=['0', '3'], exclude=['0'])

    def before_step(model, optimizer):
        functional.force_(model, optimizer=optimizer, **settings)

    hook = dict(type='mmext.ForceRegularizationHook', **settings)
    wanted = trained_by_mmengine(tmp_path, hook, optimizer)
    assert_same(trained_by_hand(optimizer, before_step=before_step), wanted)
    plain = trained_by_hand(optimizer)
    assert not torch.equal(plain['net.3.weight'], wanted['net.3.weight'])


def test_without_an_optimizer_the_force_is_for_sgd():
    def before_step(model, optimizer):
        functional.force_(model, 0.1)

    def named(model, optimizer):
        functional.force_(model, 0.1, optimizer=optimizer)

    assert_same(*(trained_by_hand(SGD, before_step=step) for step in (before_step, named)))
    with pytest.raises(ValueError, match="mode='odd'"):
        functional.force_(Net(), 0.1, mode='odd')


class Classifier(nn.Module):
    """MMPretrain's classifier as a plain module, dropout and batch norm included."""

    def __init__(self, host):
        super().__init__()
        self.host = host

    def forward(self, x):
        return self.host(x, mode='tensor')


@pytest.fixture
def host():
    """A config whose inputs are the pixels: no normalisation, range (0, 1)."""
    return dict(
        type='mmpretrain.ImageClassifier',
        data_preprocessor=dict(type='mmpretrain.ClsDataPreprocessor', to_rgb=False),
        backbone=dict(type='mmpretrain.ResNet_CIFAR', in_channels=1, depth=18, base_channels=4,
                      stem_channels=4),
        neck=dict(type='mmpretrain.GlobalAveragePooling'),
        head=dict(type='mmpretrain.LinearClsHead', num_classes=4, in_channels=32),
    )  # fmt: skip


def samples(labels):
    from mmpretrain.structures import DataSample

    return [DataSample().set_gt_label(int(label)) for label in labels]


@pytest.mark.parametrize('options', [{}, dict(target_radius=0.1), dict(share_noise=False)])
def test_certificates_are_those_of_the_class(host, options):
    torch.manual_seed(0)
    settings = dict(sigma=0.25, n=300, batch=64, images=3, seed=5, **options)
    smoothed = MODELS.build(
        dict(type='mmext.SmoothedClassifier', classifier=host, bounds=(0, 1), **settings)
    )
    nn.init.normal_(smoothed.classifier.head.fc.weight, std=30.0)
    x, _ = batch(0)
    prediction, radius = smoothed.certify(x)
    found = functional.certify(Classifier(smoothed.classifier.train()), x, **settings)
    np.testing.assert_array_equal(found.prediction, prediction)
    np.testing.assert_array_equal(found.radius, radius)
    assert (prediction >= 0).any() and smoothed.classifier.training
    with pytest.raises(ValueError, match='sigma=0'):
        functional.certify(smoothed.classifier, x, 0)


def test_the_adre_loss_is_that_of_the_class(host):
    model = MODELS.build(
        dict(type='mmext.ADREClassifier', classifier=host, sigma=0.25, bounds=(0, 1))
    )
    x, y = batch(0)
    losses = model.eval().loss(x, samples(y))
    # Its first draw of a run with seed 0.
    draws = rng.generator(0, 'randomized_smoothing', 0, 0)
    found = functional.adre_loss(Classifier(model.classifier), x, y, 0.25, generator=draws)
    torch.testing.assert_close(found, losses['loss_perturbed'] + losses['loss_adre'])
    assert not torch.allclose(found, functional.adre_loss(Classifier(model.classifier), x, y, 0.25))


@pytest.mark.parametrize('mix', ['expand', 'sample'])
def test_the_adversarial_loss_is_that_of_the_class(host, mix):
    settings = dict(strengths=[0.05, 0.3], weights=[1, 2, 5], mix=mix)
    model = MODELS.build(
        dict(type='mmext.MATClassifier', classifier=host, bounds=(0, 1), **settings)
    )
    x, y = batch(0)
    plain = copy.deepcopy(Classifier(model.networks[0])).train()
    wanted = model.train().loss(x, samples(y))['loss']
    draws = rng.generator(0, 'mat', 0, 0)  # of a run with seed 0
    found = functional.adversarial_loss(plain, x, y, generator=draws, **settings)
    torch.testing.assert_close(found, wanted)
    found.backward()
    assert plain.training and plain.host.backbone.conv1.weight.grad.any()
    for change in (dict(mix='odd'), dict(strengths=[2])):
        with pytest.raises(ValueError, match=next(iter(change))):
            functional.adversarial_loss(plain, x, y, **{**settings, **change})


def test_random_starts_depend_on_the_generator_alone():
    model, (x, y) = Net().eval(), batch(0)
    attack = dict(type='PGD', steps=1)
    first, again, other = (
        functional.adversarial_loss(
            model, x, y, [0.2], attack=attack, mix='sample',
            generator=torch.Generator().manual_seed(seed),
        )
        for seed in (1, 1, 2)
    )  # fmt: skip
    assert first == again != other


def test_an_attack_leaves_the_model_as_it_was():
    model, (x, _) = Net().train(), batch(0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    y = model.eval()(x).argmax(1)
    found = functional.cw_attack(model.train(), x, y)
    assert model.training and all(p.requires_grad for p in model.parameters())
    assert_same(model.state_dict(), before)
    assert found.success.all() and (model.eval()(found.x_adv).argmax(1) != y).all()
    for settings in (
        dict(guide='none', steps=30, lr=0.1),
        dict(targeted=True, steps=15, search_steps=3, initial_const=1.0, kappa=0.1),
    ):
        aim = (y + 1) % 4 if settings.get('targeted') else y
        found = functional.cw_attack(model, x, aim, **settings)
        defaults = dict(guide='gradient', search_steps=5)
        assert torch.equal(found.x_adv, cw_l2(model, x, aim, **defaults | settings).x_adv)


def test_teachers_teach_the_other_student():
    torch.manual_seed(0)
    students = [nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3)) for _ in range(2)]
    cycle = functional.mean_teacher_cycle(*students, momentum=0.1)
    for student in students:
        nn.init.normal_(student[1].weight, std=3.0)
    teachers = [teacher[1].weight.clone() for teacher in cycle.teachers]
    x = torch.randn(64, 4)
    scores = [teacher(x).softmax(1) for teacher in cycle.teachers]
    thr = float(scores[0].max(1)[0].median())
    for own, other, (labels, weights) in zip(
        (1, 0), (0, 1), cycle.teach(x, thr, kind='exp_kl'), strict=True
    ):
        assert torch.equal(labels, scores[own].argmax(1))
        sure = scores[own].max(1)[0] >= thr
        agreed = distribution_consistency(scores[own], scores[other], 'exp_kl')
        torch.testing.assert_close(weights, agreed * sure)
        assert 0 < sure.sum() < 64 and not labels.requires_grad
    students[0](x)  # moves the statistics of batch norm
    cycle.update()
    for teacher, before, student in zip(cycle.teachers, teachers, students, strict=True):
        torch.testing.assert_close(teacher[1].weight, 0.9 * before + 0.1 * student[1].weight)
        torch.testing.assert_close(teacher[0].running_mean, 0.1 * student[0].running_mean)
        assert not teacher.training and not any(p.requires_grad for p in teacher.parameters())
    assert cycle.teachers[0][0].running_mean.any()
    cycle.restart()
    assert_same(cycle.teachers[1].state_dict(), students[1].state_dict())
    for change, said in (((students[0], students[0]), 'two networks'), (students, 'momentum=0.9')):
        with pytest.raises(ValueError, match=said):
            functional.mean_teacher_cycle(*change, momentum=0.9 if said[0] == 'm' else 0.1)


RANKS = """
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from mmext.functional import adversarial_loss, smoothout, ternary_hook
from mmext.plugins.terngrad.exchange import Exchange

dist.init_process_group('gloo')
rank = dist.get_rank()

def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(40, 40), torch.nn.Tanh(), torch.nn.Linear(40, 40))

def gradients(step, worker):
    net = network()
    torch.manual_seed(10 * step + worker)
    net(torch.randn(8, 40)).square().mean().backward()
    return [p.grad for p in net.parameters()]

model = DistributedDataParallel(network(), bucket_cap_mb=0.004)  # several buckets
state = ternary_hook(model, keep_float=['2.bias'], min_numel=1, seed=7)
alone = Exchange(keep_float=['2.bias'], min_numel=1)
parameters = list(model.module.parameters())
alone.attach(model.module)
found = []
for step, update in ((0, 0), (1, 1), (0, 0)):
    state.update = update  # as after a resume
    model.zero_grad()
    torch.manual_seed(10 * step + rank)
    model(torch.randn(8, 40)).square().mean().backward()
    assert state.update == update + 1 and 0 < state.sent < 2000, state.sent
    alone.begin(7, update, 0, True, False)
    wanted = alone.average(parameters, [gradients(step, worker) for worker in (0, 1)])
    for parameter, mean in zip(parameters, wanted):
        torch.testing.assert_close(parameter.grad, mean, rtol=0, atol=1e-9)
    assert len(model.module[0].weight.grad.unique()) <= 5  # the sum of two ternary numbers
    found.append(model.module[0].weight.grad.clone())
options = dict(clip_factor=3.0, share_scaler=False, min_numel=2, keep_float=['bias'],
               transport='auto', error_feedback=True)
other = ternary_hook(DistributedDataParallel(network()), **options).exchange
assert other.feedback is not None and options.pop('error_feedback')
assert {key: getattr(other, key) for key in options} == options | {'keep_float': ('bias',)}
assert torch.equal(found[0], found[2]) and not torch.equal(found[0], found[1])
try:
    ternary_hook(model)
except RuntimeError as error:
    print(error)
try:
    ternary_hook(model.module)
except TypeError as error:
    print(error)

plain = DistributedDataParallel(
    torch.nn.Sequential(torch.nn.Linear(40, 8), torch.nn.BatchNorm1d(8)))
draws = torch.Generator().manual_seed(rank)
x, y = torch.rand(8, 40, generator=draws), torch.arange(8)
with smoothout(plain, 0.1, generator=draws):
    adversarial_loss(plain, x, y, [0.1], generator=draws).backward()
weight = plain.module[0].weight
for values in (weight.data, weight.grad):
    of_all = [torch.empty_like(values) for _ in (0, 1)]
    dist.all_gather(of_all, values)
    assert values.any() and torch.equal(*of_all)
dist.destroy_process_group()
"""


def test_on_two_ranks_the_ternary_hook_gives_the_mean_of_two_workers(tmp_path):
    launch = ['-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2']
    told = run_without(tmp_path / 'ranks.py', RANKS, *launch)
    assert told.count('communication hook already') == told.count('wrap the model') == 2, told


def test_networks_stylise_without_mmengine_as_with_it(tmp_path):
    code = f"""
import numpy as np
from mmext.functional import stylize
from mmext.plugins.mvstylizer import FixedInterval, GuidedAffine, MetaSmoothing, WaveletStylizer

draws = np.random.default_rng(0)
style, frames = (draws.integers(0, 255, shape, np.uint8) for shape in ((40, 48, 3), (5, 64, 80, 3)))
found = {{
    'default': list(stylize(frames, style)),
    'wavelet': list(stylize(frames, style, stylizer=WaveletStylizer(), policy=FixedInterval(2),
                            network_side=40)),
}}
np.savez({str(tmp_path / 'OUT.npz')!r}, **found)
"""
    run_without(tmp_path / 'run.py', code.replace('OUT', 'without'))
    assert 'mmengine' in sys.modules
    exec(code.replace('OUT', 'with'), {})
    from mmext.plugins.mvstylizer import VideoStylizer

    without, beside = (np.load(tmp_path / f'{name}.npz') for name in ('without', 'with'))
    for name in ('default', 'wavelet'):
        np.testing.assert_array_equal(without[name], beside[name])
        assert without[name].std() > 1
    draws = np.random.default_rng(0)
    style, frames = (
        draws.integers(0, 255, shape, np.uint8) for shape in ((40, 48, 3), (5, 64, 80, 3))
    )
    parts = dict(policy=dict(type='mmext.FixedInterval', interval=2), network_side=40,
                 upscaler=dict(type='mmext.MetaSmoothing'))  # fmt: skip
    built = VideoStylizer(dict(type='mmext.WaveletStylizer'), style, **parts)
    np.testing.assert_array_equal(list(built(frames)), beside['wavelet'])
