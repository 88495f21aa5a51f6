"""A run knows its plugins: resumes and tests take them from the checkpoint."""

import os
import shutil
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer, MessageHub

from mmext import launch, shipped
from mmext.commands.main import main
from mmext.launch import identity, overlay

ROOT = Path(__file__).parents[2]
HOST = str(ROOT / 'configs/terngrad/float_lenet_digits.py')
QUICK = {
    'default_hooks.checkpoint.interval': 1,
    'default_hooks.logger.interval': 1,
    'train_dataloader.batch_size': 512,
    'train_dataloader.num_workers': 0,
    'val_dataloader.num_workers': 0,
    'log_level': 'WARNING',
}


def options(**others):
    # MMEngine keeps its loggers and message hubs under this name.
    named = {**QUICK, 'experiment_name': uuid.uuid4().hex, **others}
    return ['--cfg-options', *(f'{key}={value}' for key, value in named.items())]


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """Work dir of two epochs with four plugins, one of which wraps the model."""
    folder = tmp_path_factory.mktemp('whole')
    plugins = ['terngrad', 'smoothout', 'force_regularization', 'mat']
    more = {'train_cfg.max_epochs': 2, 'model.attack.steps': 1}
    main(['train', HOST, '--with', *plugins, '--work-dir', str(folder), *options(**more)])
    return folder


@pytest.fixture
def half(whole, tmp_path):
    """A work dir that has moved since its training was interrupted after one epoch."""
    shutil.copy(whole / 'epoch_1.pth', tmp_path)
    (tmp_path / 'last_checkpoint').write_text('/where/it/was/epoch_1.pth')
    return tmp_path


def weights(path):
    return torch.load(path, weights_only=False)['state_dict']


def equal(one, other):
    first, second = weights(one), weights(other)
    return list(first) == list(second) and all(torch.equal(first[k], second[k]) for k in first)


def change_config(path, change):
    saved = torch.load(path, weights_only=False)
    saved['meta']['cfg'] = change(saved['meta']['cfg'])
    torch.save(saved, path)


def forget(text):
    """The config as a version of mmext wrote it that did not know its plugins."""
    cfg = Config.fromstring(text, '.py').to_dict()
    del cfg['mmext_plugins']
    return Config(cfg).pretty_text


def test_resume_without_its_plugins_takes_them_from_the_checkpoint(whole, half):
    main(
        [
            'train',
            HOST,
            '--resume',
            '--work-dir',
            str(half),
            *options(**{'train_cfg.max_epochs': 2}),
        ]
    )
    assert equal(whole / 'epoch_2.pth', half / 'epoch_2.pth')
    assert not equal(whole / 'epoch_1.pth', half / 'epoch_2.pth')
    found = identity.of_checkpoint(str(half / 'epoch_2.pth'))
    assert found == identity.of_checkpoint(str(whole / 'epoch_2.pth'))
    assert found.names == ['terngrad', 'smoothout', 'force_regularization', 'mat']
    assert found.options == {'model.attack.steps': 1}
    dumped = Config.fromfile(half / 'float_lenet_digits.py')
    assert identity.of_config(dumped) == found


def test_what_is_taken_is_said_in_one_line(half, capsys):
    launch.load_config(HOST, resume='auto', work_dir=str(half))
    said = [line for line in capsys.readouterr().err.splitlines() if 'taken from' in line]
    assert len(said) == 1
    assert '--with terngrad smoothout force_regularization mat' in said[0]
    assert 'model.attack.steps=1' in said[0]


def test_given_plugins_in_another_order_are_the_same_run(half):
    given = ['mat', 'force_regularization', 'smoothout', 'terngrad']
    cfg = launch.load_config(HOST, overlays=given, resume='auto', work_dir=str(half))
    taken = launch.load_config(HOST, resume='auto', work_dir=str(half))
    assert cfg.pretty_text == taken.pretty_text
    assert cfg.model.attack.steps == 1


def test_an_option_of_the_command_comes_after_those_of_the_checkpoint(half):
    cfg = launch.load_config(HOST, {'model.attack.steps': 3}, resume='auto', work_dir=str(half))
    assert cfg.model.attack.steps == 3
    assert identity.of_config(cfg).options == {'model.attack.steps': 3}


@pytest.mark.parametrize('plugins', [['terngrad'], ['terngrad', 'smoothout', 'cst']])
def test_resume_with_other_plugins_is_refused(half, plugins, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(['train', HOST, '--with', *plugins, '--resume', '--work-dir', str(half)])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert 'trained with terngrad smoothout force_regularization mat' in line
    assert f'would have {" ".join(plugins)}' in line
    assert f'load_from={half / "epoch_1.pth"}' in line


def test_plugins_for_a_training_that_had_none_are_refused(tmp_path, capsys):
    work_dir = ['--work-dir', str(tmp_path)]
    main(['train', HOST, *work_dir, *options(**{'train_cfg.max_epochs': 1})])
    assert identity.of_checkpoint(str(tmp_path / 'epoch_1.pth')) == identity.Identity()
    with pytest.raises(SystemExit):
        main(['train', HOST, '--with', 'smoothout', '--resume', *work_dir])
    line = capsys.readouterr().err.splitlines()[-1]
    assert 'trained with no plugins, this run would have smoothout' in line
    # The way that the message names.
    way = f'load_from={tmp_path / "epoch_1.pth"}'
    more = options(**{'train_cfg.max_epochs': 1})
    main(['train', HOST, '--with', 'smoothout', '--work-dir', str(tmp_path / 'new'), *more, way])
    assert identity.of_checkpoint(str(tmp_path / 'new/epoch_1.pth')).names == ['smoothout']


def test_the_config_of_the_work_dir_goes_on_as_it_is(whole, half):
    dumped = whole / 'float_lenet_digits.py'
    cfg = launch.load_config(str(dumped), resume='auto', work_dir=str(half))
    assert cfg.pretty_text == Config.fromfile(dumped).pretty_text


def test_a_checkpoint_that_does_not_tell_says_so_and_must_fit(half, capsys):
    change_config(half / 'epoch_1.pth', forget)
    work_dir = ['--work-dir', str(half)]
    with pytest.raises(SystemExit) as stopped:
        main(['train', HOST, '--resume', *work_dir, *options()])
    assert stopped.value.code == 2
    assert 'of its 10 tensors would keep their initial values' in capsys.readouterr().err
    plugins = ['terngrad', 'smoothout', 'force_regularization', 'mat']
    launch.load_config(HOST, overlays=plugins, resume='auto', work_dir=str(half))
    assert 'does not tell which plugins' in capsys.readouterr().err


def test_an_overlay_that_has_changed_is_refused(half):
    digest = identity.of_checkpoint(str(half / 'epoch_1.pth')).fragments['mat']
    change_config(half / 'epoch_1.pth', lambda text: text.replace(digest, 'x'))
    with pytest.raises(ValueError, match='overlay mat has changed .* use the config in its work'):
        launch.load_config(HOST, resume='auto', work_dir=str(half))


def test_a_test_takes_the_plugins_of_its_checkpoint(whole, capsys):
    checkpoint = str(whole / 'epoch_2.pth')
    main(['test', HOST, checkpoint, '--work-dir', str(whole / 'test'), *options()])
    assert 'taken from' in capsys.readouterr().err
    cfg = launch.load_config(HOST, overlays=['mat'], checkpoint=checkpoint)
    assert cfg.model.type == 'mmext.MATClassifier' and 'custom_hooks' in cfg
    assert identity.of_config(cfg).names == ['mat']
    assert 'and is used with mat' in capsys.readouterr().err


def test_a_fragment_of_ones_own_is_found_from_another_folder(tmp_path, monkeypatch):
    own = tmp_path / 'mine.py'
    own.write_text("custom_hooks = [dict(type='mmext.SmoothOutHook', strength=0.5)]\n")
    monkeypatch.chdir(tmp_path)
    cfg = launch.load_config(HOST, overlays=['mine.py'])
    saved = tmp_path / 'epoch_1.pth'
    torch.save({'meta': {'cfg': cfg.pretty_text}, 'state_dict': {}}, saved)
    monkeypatch.chdir(ROOT)
    again = launch.load_config(HOST, resume=str(saved), work_dir=str(tmp_path))
    assert again.pretty_text == cfg.pretty_text
    assert identity.of_config(again).names == [str(own)]


@pytest.mark.parametrize(
    'key, touches',
    [
        ('optim_wrapper.clip_factor', True),
        ('optim_wrapper', True),
        ('optim_wrapper.optimizer.lr', False),
        ('custom_hooks.4.strength', True),
        ('model.backbone.depth', False),
        ('train_cfg.max_epochs', False),
    ],
)
def test_options_that_touch_the_plugins_are_noted(key, touches):
    cfg = Config()
    identity.note(cfg, ['terngrad', 'smoothout'], {key: 1})
    assert identity.of_config(cfg).options == ({key: 1} if touches else {})


def test_the_note_survives_the_text_of_the_config():
    cfg = Config({'model': {'type': 'X'}})
    given = {
        'custom_hooks.0.strength': [1, None, {'a-b': (2, 'x')}],
        'optim_wrapper.clip_factor': 2,
    }
    identity.note(cfg, ['terngrad', 'smoothout'], given)
    for text in (cfg.pretty_text, f'{identity.KEY} = {cfg[identity.KEY]!r}\n'):
        assert identity._read(text) == identity.of_config(cfg)
    assert identity._read('a = 1\n') is None
    assert identity._read('no python') is None


def test_scalars_of_the_run_before_leave_the_log():
    class Runner:
        message_hub = MessageHub(uuid.uuid4().hex)

    hub = Runner.message_hub
    for key in ('train/loss', 'train/terngrad/zeros', 'val/accuracy'):
        hub.log_scalars[key] = HistoryBuffer([1.0, 2.0], [1, 1])
    hook = identity.FreshScalars()
    hook.before_train(Runner)
    hub.update_scalar('train/loss', 3.0)
    hook.after_train_iter(Runner, 0)
    assert list(hub.log_scalars['train/loss'].data[0]) == [1, 2, 3]
    assert set(hub.log_scalars) == {'train/loss', 'val/accuracy'}
    hub.update_scalar('train/terngrad/zeros', 4.0)
    hook.after_train_iter(Runner, 1)
    assert 'train/terngrad/zeros' in hub.log_scalars


def test_two_ranks_resume_with_the_plugins_of_their_checkpoint(tmp_path):
    kept = {k: v for k, v in os.environ.items() if not k.startswith('SLURM')}
    environment = {**kept, 'PYTHON': sys.executable, 'OMP_NUM_THREADS': '1'}

    def run(*arguments, epochs=2):
        more = {'train_cfg.max_epochs': epochs, 'train_dataloader.batch_size': 256}
        command = ['bash', ROOT / 'tools/dist_train.sh', HOST, '2', *arguments]
        done = subprocess.run(
            [*command, *options(**more)], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stderr

    run('--with', 'terngrad', 'smoothout', '--work-dir', tmp_path / 'whole')
    shutil.copytree(tmp_path / 'whole', tmp_path / 'half')
    (tmp_path / 'half/epoch_2.pth').unlink()
    said = run('--resume', tmp_path / 'half/epoch_1.pth', '--work-dir', tmp_path / 'half')
    assert said.count('taken from') == 1
    assert equal(tmp_path / 'whole/epoch_2.pth', tmp_path / 'half/epoch_2.pth')


def test_the_overlays_of_the_package_have_digests_of_their_own():
    digests = {identity._digest(overlay.load(name)) for name in shipped.overlays()}
    assert len(digests) == len(shipped.overlays())
