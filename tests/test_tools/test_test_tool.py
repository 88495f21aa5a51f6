import os
import pickle
import subprocess
import uuid
from pathlib import Path

import pytest
import torch
from torch import nn

from mmext import launch
from mmext.commands.main import main

ROOT = Path(__file__).parents[2]


class Net(nn.Module):
    """A model with batch norm, so with buffers, and a submodule."""

    def __init__(self, width=4):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width))
        self.head = nn.Linear(width, 2)


@pytest.fixture
def save(tmp_path):
    def write(state, name='c.pth', **rest):
        path = str(tmp_path / name)
        torch.save({'state_dict': state, **rest} if rest or state else state, path)
        return path

    return write


def test_a_fitting_checkpoint_passes_and_the_model_keeps_its_values(save):
    model, other = Net(), Net()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    parameters = list(model.parameters())
    launch.check_checkpoint(model, save(other.state_dict(), meta={'epoch': 1}))
    launch.check_checkpoint(model, save(dict(nn.DataParallel(other).state_dict())))
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_missing_mismatched_and_unexpected_keys_are_listed(save):
    state = Net(width=5).state_dict()
    del state['head.bias']
    state['neck.weight'] = torch.zeros(1)
    with pytest.raises(ValueError) as refused:
        launch.check_checkpoint(Net(), save(state))
    text = str(refused.value)
    assert 'missing (1): head.bias\n' in text
    # Linear 3x5, its bias, four tensors of batch norm and the head's input width.
    assert 'of another shape (7): backbone.0.weight, backbone.0.bias' in text
    assert 'not in the model (1): neck.weight\n' in text
    assert '8 of its 9 tensors' in text and 'use the config' in text


def test_a_refused_checkpoint_leaves_the_model_alone(save):
    model = Net()
    parameters = list(model.parameters())
    with pytest.raises(ValueError, match='7 of its 9 tensors'):
        launch.check_checkpoint(model, save({'backbone.0.weight': torch.ones(4, 3)}))
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))


def test_ema_and_preprocessor_extras_and_old_batch_norm_are_fine(save):
    state = Net().state_dict()
    state['ema_head_weight'] = torch.zeros(2, 4)
    state['data_preprocessor.mean'] = torch.zeros(3)
    del state['backbone.1.num_batches_tracked']
    launch.check_checkpoint(Net(), save(state))
    # A buffer that counts is missed, though it is no parameter.
    del state['backbone.1.running_mean']
    with pytest.raises(ValueError, match='running_mean'):
        launch.check_checkpoint(Net(), save(state))


def test_hooks_that_rename_old_keys_take_part(save):
    class Renamed(Net):
        def __init__(self):
            super().__init__()
            self._register_load_state_dict_pre_hook(self.rename)

        def rename(self, state_dict, *_):
            for key in [key for key in state_dict if key.startswith('old_head.')]:
                state_dict[key.removeprefix('old_')] = state_dict.pop(key)

    state = {key.replace('head', 'old_head'): value for key, value in Net().state_dict().items()}
    launch.check_checkpoint(Renamed(), save(state))
    with pytest.raises(ValueError, match='head.weight'):
        launch.check_checkpoint(Net(), save(state))


def test_wrapped_models_and_wrapped_parts_are_seen_through(save):
    path = save(Net().state_dict())
    launch.check_checkpoint(nn.DataParallel(Net()), path)
    model = Net()
    model.backbone = nn.DataParallel(model.backbone)
    launch.check_checkpoint(model, path)


def test_what_is_no_checkpoint_is_said(tmp_path, save):
    with pytest.raises(FileNotFoundError, match='nothing.pth'):
        launch.check_checkpoint(Net(), str(tmp_path / 'nothing.pth'))
    (tmp_path / 'text.pth').write_text('no weights')
    with pytest.raises(ValueError, match='text.pth is not a checkpoint'):
        launch.check_checkpoint(Net(), str(tmp_path / 'text.pth'))
    torch.save([1, 2], tmp_path / 'list.pth')
    with pytest.raises(ValueError, match='list.pth'):
        launch.check_checkpoint(Net(), str(tmp_path / 'list.pth'))


@pytest.fixture
def evaluate(toy):
    def run(*argv):
        options = ['--cfg-options', f'experiment_name={uuid.uuid4().hex}']
        main(['test', toy, *argv, *options])

    return run


def test_predictions_and_metric_belong_to_the_checkpoint(evaluate, save, capsys):
    from toy_least_squares import samples

    weight = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    evaluate(save({'weight': weight}), '--out', 'out/results.pkl')
    x, y = samples()
    dumped = pickle.loads(Path('out/results.pkl').read_bytes())
    errors = torch.stack([item['error'] for item in dumped])
    torch.testing.assert_close(errors, x @ weight - y, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize(
    ('argv', 'named'),
    [
        (['lost.pth'], 'lost.pth'),
        (['{other}'], 'of another shape (1): weight'),
        (['{other}', '--out', 'results.json'], 'results.json'),
        (['{other}', '--show-dir', 'drawn'], 'mmdet or mmpretrain'),
        (['{other}', '--cfg-options', 'test_dataloader=None'], 'test_dataloader'),
    ],
)
def test_mistakes_exit_with_2(evaluate, save, argv, named, capsys):
    other = save({'weight': torch.zeros(7, dtype=torch.float64)})
    with pytest.raises(SystemExit) as stopped:
        evaluate(*[part.format(other=other) for part in argv])
    assert stopped.value.code == 2
    assert named in capsys.readouterr().err


def test_show_dir_switches_on_the_hook_of_the_host(toy, save):
    path = save({'weight': torch.zeros(3)})
    drawn = os.path.abspath('drawn')
    cfg = launch.load_config(toy, {'default_scope': 'mmdet'})
    launch.prepare_test(cfg, path, show_dir='drawn')
    hook = {'type': 'mmdet.DetVisualizationHook', 'draw': True, 'test_out_dir': drawn}
    assert cfg.default_hooks.visualization == hook
    assert cfg.visualizer.type == 'mmdet.DetLocalVisualizer'
    cfg = launch.load_config(toy, {'default_scope': 'mmpretrain', 'visualizer.type': 'Mine'})
    cfg.default_hooks = {'visualization': {'type': 'VisualizationHook', 'rescale_factor': 2}}
    launch.prepare_test(cfg, path, show_dir='drawn')
    assert cfg.default_hooks.visualization == {
        'type': 'VisualizationHook',
        'rescale_factor': 2,
        'enable': True,
        'interval': 1,
        'out_dir': drawn,
    }
    assert cfg.visualizer.type == 'Mine'


def test_dist_test_passes_its_arguments_on():
    env = {**os.environ, 'PYTHON': 'echo', 'PORT': '29511'}
    command = ['bash', ROOT / 'tools' / 'dist_test.sh', 'c.py', 'a b.pth', '2', '--out', 'r.pkl']
    line = subprocess.check_output(command, env=env, text=True)
    assert '--nnodes 1' in line and '--master_port 29511' in line and '--nproc_per_node 2' in line
    assert line.endswith('c.py a b.pth --launcher pytorch --out r.pkl\n')
    assert subprocess.run(command[:4], capture_output=True).returncode == 2
