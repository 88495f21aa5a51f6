import os
import subprocess
import uuid
from pathlib import Path

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner

from mmext import launch
from mmext.commands.main import main
from mmext.commands.options import user_errors
from mmext.compat import distributed, environment
from mmext.launch import runs
from mmext.registry import HOOKS

ROOT = Path(__file__).parents[2]


@pytest.fixture
def train(toy):
    """Run tools/train.py in this process on the toy config; returns what rank 0 ended with."""

    def run(*argv, work_dir=None):
        # MMEngine keeps its loggers and message hubs under this name.
        options = [f'experiment_name={uuid.uuid4().hex}']
        place = [] if work_dir is None else ['--work-dir', work_dir]
        main(['train', toy, *place, *argv, '--cfg-options', *options])
        return torch.load(Path(work_dir or 'work_dirs/toy_config') / 'rank0.pth')

    return run


def test_untested_versions_are_said_once(train, monkeypatch, capfd):
    runs._warn_untested.cache_clear()
    monkeypatch.setattr(environment, 'untested', lambda: 'these versions are untested')
    for work_dir in ('one', 'two'):
        train(work_dir=work_dir)
    said = capfd.readouterr()
    assert (said.out + said.err).count('these versions are untested') == 1
    runs._warn_untested.cache_clear()


def descend(batches, steps, lr):
    """Gradient descent by hand: each step averages the gradients of its ranks' batches."""
    from toy_least_squares import samples

    x, y = samples()
    weight = torch.zeros(3, dtype=torch.float64)
    for step in range(steps):
        gradients = []
        for ids in batches[step]:
            error = x[ids] @ weight - y[ids]
            gradients.append(2 * (error[:, None] * x[ids]).mean(0))
        weight = weight - lr * torch.stack(gradients).mean(0)
    return weight


def test_two_cpu_ranks_average_their_gradients(toy, toy_environment):
    command = ['bash', ROOT / 'tools' / 'dist_train.sh', toy, '2', '--work-dir', 'run']
    result = subprocess.run(
        [*command, '--auto-scale-lr'], env=toy_environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    first, second = (torch.load(f'run/rank{rank}.pth') for rank in range(2))
    assert torch.equal(first['weight'], second['weight'])
    assert first['iterations'] == 2  # 8 samples, 2 ranks, 2 in a batch
    assert first['lr'] == [0.1 * 4 / 8]  # base batch size 8
    # DefaultSampler deals the samples out in turn.
    batches = [([0, 2], [1, 3]), ([4, 6], [5, 7])]
    torch.testing.assert_close(first['weight'], descend(batches, 2, 0.05), rtol=1e-14, atol=1e-16)


def test_options_reach_the_run(train):
    end = train(
        '--auto-scale-lr',
        '--cfg-options',
        'train_cfg.max_epochs=2',
        'optim_wrapper.optimizer.lr=0.2',
    )
    assert end['lr'] == [0.2 * 2 / 8]
    batches = [([0, 1],), ([2, 3],), ([4, 5],), ([6, 7],)] * 2
    torch.testing.assert_close(end['weight'], descend(batches, 8, 0.05), rtol=1e-14, atol=1e-16)


def test_resume_continues_as_if_never_interrupted(train):
    momentum = ['--cfg-options', 'optim_wrapper.optimizer.momentum=0.9']
    two = [*momentum, 'train_cfg.max_epochs=2']
    whole = train(*two, work_dir='whole')
    train(*momentum, work_dir='parts')
    explicit = train('--resume', 'parts/epoch_1.pth', *two, work_dir='elsewhere')
    latest = train('--resume', *two, work_dir='parts')
    for end in (explicit, latest):
        assert end['iterations'] == 8
        assert torch.equal(end['weight'], whole['weight'])


def test_resume_without_a_checkpoint_keeps_load_from(toy, tmp_path):
    cfg = launch.load_config(toy, {'load_from': 'pretrained.pth'})
    launch.prepare(cfg, work_dir=str(tmp_path), resume='auto')
    assert (cfg.resume, cfg.load_from) == (False, 'pretrained.pth')
    (tmp_path / 'epoch_1.pth').touch()
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_1.pth'))
    launch.prepare(cfg, work_dir=str(tmp_path), resume='auto')
    assert (cfg.resume, cfg.load_from) == (True, str(tmp_path / 'epoch_1.pth'))


def test_work_dir_command_line_before_config_before_name(toy):
    for in_config, given, expected in [
        (None, None, os.path.join('work_dirs', 'toy_config')),
        ('a', None, 'a'),
        ('a', 'b', 'b'),
    ]:
        cfg = launch.load_config(toy, {'work_dir': in_config})
        launch.prepare(cfg, work_dir=given)
        assert cfg.work_dir == expected


@pytest.mark.parametrize(
    ('argv', 'named'),
    [
        (['missing.py'], 'missing.py'),
        (['nopackage::a/b.py'], 'nopackage'),
        (['{toy}', '--resume', 'lost.pth'], 'lost.pth'),
        (['{toy}', '--cfg-options', 'trian_cfg.max_epochs=2'], 'train_cfg'),
        (['{toy}', '--cfg-options', 'train_cfg'], 'key=value'),
        (['{toy}', '--cfg-options', 'optim_wrapper=dict(a=1)'], 'optim_wrapper.name=value'),
        (['{toy}', '--cfg-options', 'train_cfg={{}}'], 'train_cfg.name=value'),
        (['{toy}', '--cfg-options', 'optim_wrapper.clip_gard=1'], 'clip_grad'),
        (['{toy}', '--cfg-options', 'model.siez=1'], "argument 'siez'"),
        (['{toy}', '--cfg-options', 'optim_wrapper.optimizer.lrr=1'], "argument 'lrr'"),
        (['{toy}', '--cfg-options', 'train_dataloader.dataset.data_root=no/where'], 'no/where'),
        (['{toy}', '--cfg-options', 'model.type.depth=2'], 'model.type.depth'),
        (['{toy}', '--cfg-options', 'custom_hooks.7.type=X'], 'custom_hooks.7.type'),
        (['{toy}', '--cfg-options', 'auto_scale_lr=None', '--auto-scale-lr'], 'base_batch_size'),
        (['{toy}', '--cfg-options', 'train_dataloader=None'], 'train_dataloader'),
        (['broken.py'], 'broken.py'),
        (['baseless.py'], 'gone.py'),
        (['{toy}', '--launcher', 'slurm'], 'SLURM_PROCID'),
    ],
)
def test_mistakes_exit_with_2_and_one_line(toy, argv, named, capsys, monkeypatch):
    monkeypatch.setattr(launch.runs, 'get_device', lambda: 'cpu')
    monkeypatch.delenv('SLURM_PROCID', raising=False)
    Path('broken.py').write_text('model = dict(\n')
    Path('baseless.py').write_text("_base_ = 'gone.py'\n")
    with pytest.raises(SystemExit) as stopped:
        main(['train', *(part.format(toy=toy) for part in argv)])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert line.startswith('mmext train: error: ') and named in line


def test_a_stale_last_checkpoint_is_named(toy, tmp_path):
    (tmp_path / 'last_checkpoint').write_text('/moved/epoch_3.pth')
    with pytest.raises(FileNotFoundError, match='/moved/epoch_3.pth'):
        launch.prepare(launch.load_config(toy), work_dir=str(tmp_path), resume='auto')


@pytest.mark.parametrize('noted', ['/moved/epoch_3.pth', 'moved/epoch_3.pth'])
def test_resume_finds_the_checkpoint_of_a_work_dir_that_has_moved(toy, tmp_path, noted):
    (tmp_path / 'last_checkpoint').write_text(noted)
    (tmp_path / 'epoch_3.pth').touch()
    cfg = launch.load_config(toy)
    launch.prepare(cfg, work_dir=str(tmp_path), resume='auto')
    assert (cfg.resume, cfg.load_from) == (True, str(tmp_path / 'epoch_3.pth'))


def test_an_empty_last_checkpoint_does_not_name_the_work_dir(toy, tmp_path):
    (tmp_path / 'last_checkpoint').touch()
    with pytest.raises(FileNotFoundError, match='last_checkpoint names a file that is gone'):
        launch.prepare(launch.load_config(toy), work_dir=str(tmp_path), resume='auto')


def test_programming_errors_keep_their_traceback():
    with pytest.raises(AttributeError), user_errors('mmext train'):
        raise AttributeError('a defect')


def test_options_may_add_keys_that_mmengine_reads(toy):
    cfg = launch.load_config(toy, {'find_unused_parameters': True, 'model.new.deep': 1})
    assert cfg.find_unused_parameters is True
    assert cfg.model == {'type': 'ToyModel', 'new': {'deep': 1}}


def test_package_configs_resolve_to_the_installed_files(tmp_path, monkeypatch):
    for name, folder in [('wheel_package', 'wheel_package/.mim/configs'), ('checkout', 'configs')]:
        (tmp_path / name).mkdir()
        (tmp_path / name / '__init__.py').touch()
        (tmp_path / folder / 'group').mkdir(parents=True)
        (tmp_path / folder / 'group' / f'{name}_config.py').write_text('a = 1\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    assert launch.load_config('wheel_package::group/wheel_package_config.py').a == 1
    assert launch.load_config('checkout::group/checkout_config.py').a == 1
    with pytest.raises(FileNotFoundError, match='similar: group/checkout_config.py'):
        launch.load_config('checkout::group/checkuot_config.py')


@pytest.mark.parametrize('kind', ['OptimWrapper', OptimWrapper, None, 'AmpOptimWrapper'])
def test_amp_takes_the_counterpart(toy, monkeypatch, kind):
    monkeypatch.setattr(launch.runs, 'get_device', lambda: 'cuda')
    cfg = launch.load_config(toy)
    if kind is not None:
        cfg.optim_wrapper.type = kind
    launch.prepare(cfg, amp=True)
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper'
    assert cfg.optim_wrapper.loss_scale == 'dynamic'


def test_amp_never_drops_a_wrapper_without_counterpart(toy, monkeypatch):
    monkeypatch.setattr(launch.runs, 'get_device', lambda: 'cuda')
    cfg = launch.load_config(toy, {'optim_wrapper.type': 'ApexOptimWrapper'})
    with pytest.raises(ValueError, match='ApexOptimWrapper.*no counterpart'):
        launch.prepare(cfg, amp=True)
    cfg.optim_wrapper = ConfigDict(generator={'optimizer': {'type': 'SGD'}})
    with pytest.raises(ValueError, match='one optimizer'):
        launch.prepare(cfg, amp=True)


@pytest.mark.parametrize(
    'switch, hook', [('amp', 'AutocastHook'), ('channels_last', 'ChannelsLastHook')]
)
def test_switches_of_speed_add_a_hook_once(toy, monkeypatch, switch, hook):
    monkeypatch.setattr(launch.runs, 'get_device', lambda: 'cpu')
    cfg = launch.load_config(toy)
    before, wrapper = list(cfg.custom_hooks), cfg.optim_wrapper.to_dict()
    launch.prepare(cfg, **{switch: True})
    assert cfg.custom_hooks == [*before, {'type': f'mmext.{hook}'}]
    # Of a config that has it already, maybe as a class.
    cfg.custom_hooks[-1].type = HOOKS.get(f'mmext.{hook}')
    launch.prepare(cfg, **{switch: True})
    assert len(cfg.custom_hooks) == len(before) + 1
    assert cfg.optim_wrapper.to_dict() == wrapper
    # Several optimizers and a config without hooks.
    cfg.custom_hooks = None
    cfg.optim_wrapper = ConfigDict(generator={'optimizer': {'type': 'SGD'}})
    launch.prepare(cfg, **{switch: True})
    assert cfg.custom_hooks == [{'type': f'mmext.{hook}'}]


def test_mmpretrain_configs_get_the_loader_defaults_of_its_tools(toy):
    cfg = launch.load_config(toy, {'default_scope': 'mmpretrain'})
    cfg.train_dataloader = ConfigDict(num_workers=2, pin_memory='mine')
    launch.prepare(cfg)
    assert cfg.train_dataloader == {
        'num_workers': 2,
        'pin_memory': 'mine',
        'persistent_workers': True,
        'collate_fn': {'type': 'default_collate'},
    }


def test_runner_type_is_built(toy, tmp_path, monkeypatch):
    from mmengine.registry import RUNNERS

    class OtherRunner(Runner):
        pass

    monkeypatch.setitem(RUNNERS._module_dict, 'OtherRunner', OtherRunner)
    cfg = launch.load_config(toy, {'experiment_name': uuid.uuid4().hex})
    launch.prepare(cfg, work_dir=str(tmp_path))
    assert type(launch.build_runner(cfg)) is Runner
    cfg.runner_type, cfg.experiment_name = 'OtherRunner', uuid.uuid4().hex
    assert type(launch.build_runner(cfg)) is OtherRunner


def test_launcher_none_leaves_one_process():
    cfg = Config({'model': {}})
    distributed.setup(cfg, 'none')
    assert cfg.launcher == 'none' and 'model_wrapper_cfg' not in cfg


def test_slurm_script_starts_one_task_per_gpu(tmp_path):
    stub = tmp_path / 'srun'
    stub.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    stub.chmod(0o755)
    env = {
        'PATH': f'{tmp_path}:{os.environ["PATH"]}',
        'GPUS': '16',
        'SRUN_ARGS': '--quiet --exclusive',
    }
    script = ROOT / 'tools' / 'slurm_train.sh'
    command = ['bash', script, 'gpu', 'a job', 'c.py', 'work dir', '--resume']
    lines = subprocess.check_output(command, env=env, text=True).splitlines()
    assert {'--partition=gpu', '--job-name=a job', '--gres=gpu:8', '--ntasks=16'} <= set(lines)
    assert {'--ntasks-per-node=8', '--cpus-per-task=5', '--quiet', '--exclusive'} <= set(lines)
    start = lines.index('c.py')
    assert lines[start:] == ['c.py', '--work-dir', 'work dir', '--launcher', 'slurm', '--resume']
    assert subprocess.run(['bash', script, 'gpu'], capture_output=True).returncode == 2


def test_several_machines_meet_at_the_master():
    env = {**os.environ, 'PYTHON': 'echo', 'NNODES': '2', 'NODE_RANK': '1', 'MASTER_ADDR': 'host0'}
    command = ['bash', ROOT / 'tools' / 'dist_train.sh', 'c.py', '4', '--amp']
    line = subprocess.check_output(command, env=env, text=True)
    assert '--nnodes 2 --node_rank 1 --master_addr host0 --master_port 29500' in line
    assert '--nproc_per_node 4' in line and line.endswith('c.py --launcher pytorch --amp\n')
    assert subprocess.run(command[:3], capture_output=True).returncode == 2


def test_errors_of_the_training_itself_keep_their_traceback(toy, monkeypatch):
    def fail(*_, **__):
        raise ValueError('odd')

    monkeypatch.setattr('toy_least_squares.ToyModel.forward', fail)
    with pytest.raises(ValueError, match='odd'):
        main(['train', toy, '--cfg-options', f'experiment_name={uuid.uuid4().hex}'])
