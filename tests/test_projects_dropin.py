"""Projects of others, trained by their hosts' own tools; the zoo study in its short form."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmext.launch import overlay

PROJECTS = {
    'mmdet': 'mmdet_project/retinanet_r18_digits',
    'mmpretrain': 'mmpretrain_project/lenet5_digits',
}
THREE = {'terngrad', 'smoothout', 'force_regularization'}


@pytest.fixture
def zoo(import_script):
    """The scripts of the study as modules."""
    return import_script('dropin', 'zoo')


def run(*command, cwd):
    environment = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
    environment['OMP_NUM_THREADS'] = '1'
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.mark.parametrize('host', PROJECTS)
def test_three_entries_are_all_that_the_plugins_add(root, host):
    plain, plugins = (
        Config.fromfile(root / f'projects/dropin/{PROJECTS[host]}{suffix}.py')
        for suffix in ('', '_plugins')
    )
    assert 'mmext' not in plain.pretty_text
    added = {
        line[1:].strip().rstrip(',')
        for line in overlay.difference(plain, plugins).splitlines()
        if line[0] == '+' and 'mmext' in line
    }
    assert len(added) == 3 and plugins.get('custom_imports') is None
    hooks = plugins.pop('custom_hooks')
    assert [hook.type for hook in hooks] == [
        'mmext.SmoothOutHook', 'mmext.ForceRegularizationHook']  # fmt: skip
    plugins.optim_wrapper.type = plain.optim_wrapper.get('type', 'OptimWrapper')
    plain.optim_wrapper.setdefault('type', 'OptimWrapper')
    assert plugins.to_dict() == plain.to_dict()


@pytest.mark.skipif(
    find_spec('_mmext_startup') is None or '_mmext_startup' not in sys.modules,
    reason='mmext is not installed here (only on the path), so its start-up file did not run',
)
@pytest.mark.parametrize('host', PROJECTS)
def test_the_hosts_own_tool_trains_the_project(root, scenes, tmp_path, host):
    data = tmp_path / 'data'
    data.mkdir()
    if host == 'mmdet':
        (data / 'digit_scenes').symlink_to(scenes)
    else:
        export = root / 'projects/dropin/mmpretrain_project/export_digits.py'
        run(export, '--out', data / 'digits_folder', '--every', '9', cwd=tmp_path)
    tool = Path(find_spec(host).submodule_search_locations[0]) / '.mim/tools/train.py'
    config = root / f'projects/dropin/{PROJECTS[host]}_plugins.py'
    # Hardly trained, a detector is sure of nothing.
    more = ['model.test_cfg.score_thr=0'] if host == 'mmdet' else []
    log = run(
        tool, config, '--work-dir', tmp_path / 'out', '--cfg-options', 'train_cfg.max_epochs=1',
        'train_cfg.val_interval=1', 'default_hooks.logger.interval=1',
        'train_dataloader.num_workers=0', 'val_dataloader.num_workers=0',
        'train_dataloader.persistent_workers=False', 'val_dataloader.persistent_workers=False',
        'param_scheduler=None', *more, cwd=tmp_path,
    )  # fmt: skip
    for key in ('terngrad/zeros', 'smoothout/strength', 'rank/mean_share'):
        assert key in log, key
    assert {'mmdet': 'coco/bbox_mAP', 'mmpretrain': 'accuracy/top1'}[host] in log
    # MMEngine keeps its log in the checkpoint as an object.
    state = torch.load(tmp_path / 'out/epoch_1.pth', weights_only=False)
    assert state['meta']['iter'] >= 2


def test_the_short_zoo_trains_with_all_three(root, zoo, tmp_path):
    kept = {p: p.read_bytes() for p in (root / 'projects/dropin/results').glob('*')}
    run(root / 'projects/dropin/zoo.py', '--quick', '--work', tmp_path, cwd=tmp_path)
    result = json.loads((tmp_path / 'results/zoo.json').read_text())
    rows = result['data']['sample']
    assert sorted(f'{row["host"]}/{row["family"]}' for row in rows) == sorted(zoo.QUICK)
    assert {row['outcome'] for row in rows} == {'trained'}, result['data']['cannot']
    assert all(len(row['losses']) >= 2 for row in rows)
    # A second run finds everything on record.
    records = (tmp_path / 'records.jsonl').read_bytes()
    run(root / 'projects/dropin/zoo.py', '--quick', '--work', tmp_path, cwd=tmp_path)
    assert (tmp_path / 'records.jsonl').read_bytes() == records
    assert {p: p.read_bytes() for p in (root / 'projects/dropin/results').glob('*')} == kept


def test_the_sample_is_stratified_seeded_and_small_first(zoo):
    pools = zoo.families('mmpretrain')
    assert len(pools) > 60
    assert not [name for names in pools.values() for name in names if '_base_' in name]
    first = zoo.draw('mmpretrain', 'swin_transformer', pools['swin_transformer'], 0)
    assert first == zoo.draw('mmpretrain', 'swin_transformer', pools['swin_transformer'][::-1], 0)
    assert not zoo.LARGE.search(Path(first).stem)
    seen = {zoo.draw('mmpretrain', 'resnet', pools['resnet'], seed) for seed in range(5)}
    assert len(seen) > 1
    # These only evaluate what another code base has trained.
    assert zoo.draw('mmpretrain', 'otter', pools['otter'], 0) is None


def test_the_probe_misses_a_plugin_that_does_nothing(root, tmp_path):
    """Otherwise 'trained' would say nothing about the plugins."""
    still = tmp_path / 'still.py'
    still.write_text("custom_hooks = [dict(type='mmext.SmoothOutHook', strength=0.0)]")
    cases = {
        ('smoothout', 'force_regularization'): 'no effect seen of terngrad',
        ('terngrad', 'force_regularization'): 'no effect seen of smoothout',
        ('terngrad', str(still)): 'no effect seen of smoothout, force_regularization',
    }
    # Trainings are forks: of a fresh process, which has no threads of other tests' libraries.
    script = tmp_path / 'claims.py'
    script.write_text(CLAIMS)
    told = run(script, json.dumps([*cases]), cwd=root / 'projects/dropin')
    found = json.loads(told.strip().splitlines()[-1])
    for message, row in zip(cases.values(), found, strict=True):
        assert not row['ok'] and message in row['error'], row


CLAIMS = """
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path.cwd()))
import zoo

zoo.load_hosts()
import zoo_run


def claiming_all(path, overlays, factor, folder):
    cfg = zoo_run.load(path, overlays)
    zoo_run.init_default_scope(cfg.default_scope)
    zoo_run.prepare(cfg, folder, factor)
    runner = zoo_run.launch.build_runner(cfg)
    probe = zoo_run.Probe(zoo_run.OVERLAYS)
    runner.register_hook(probe)
    runner.train()
    probe.verdict()
    return {}


path = str(zoo.zoo('mmpretrain') / 'lenet/lenet5_mnist.py')
log = Path(__file__).with_name('log')
found = [
    zoo_run.attempt(claiming_all, path, tuple(overlays), 1.0, log)
    for overlays in json.loads(sys.argv[1])
]
print(json.dumps(found))
"""


def test_who_is_to_blame_is_told_apart(zoo, monkeypatch, tmp_path):
    import zoo_run

    answers, limit = {}, False

    def attempt(task, path, overlays, factor, log, room=1):
        ok = answers[task.__name__, 'more' if room > 1 else bool(overlays)]
        return {'ok': ok, 'error': f'{task.__name__} failed', 'where': 'x.py:1', 'losses': [1.0],
                'limit': limit, 'wrapper': 'W', 'hooks': [], 'cpu_s': 0.0,
                'peak_mib': 1.0}  # fmt: skip

    def judge():
        config = 'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py'
        return zoo.judge('mmdet', 'fcos', config, tmp_path / 'log')['outcome']

    monkeypatch.setattr(zoo_run, 'attempt', attempt)
    for outcome, told in {
        'trained': (True, True, True, True),
        'broken': (False, True, True, True),
        'resolved': (False, False, True, True),
        'unavailable': (False, False, False, False),
    }.items():
        keys = [('train', True), ('train', False), ('resolve', True), ('resolve', False)]
        answers.update(zip(keys, told, strict=True))
        assert judge() == outcome
    # The model builds, but not with the plugins.
    answers.update({('resolve', False): True})
    assert judge() == 'broken'
    # Out of memory, with the plugins or at all.
    limit = True
    answers.update({('train', False): True, ('train', 'more'): True, ('resolve', True): True})
    assert judge() == 'trained'
    answers['train', 'more'] = False
    assert judge() == 'broken'
    answers['train', False] = False
    assert judge() == 'resolved'
    assert zoo.judge('mmdet', 'fcos', 'lost.py', tmp_path / 'log')['outcome'] == 'unavailable'


def test_broken_configs_lower_the_share(zoo, tmp_path):
    row = {'host': 'mmdet', 'family': 'a', 'config': 'a.py', 'cpu_s': 1.0, 'peak_mib': 1.0}
    rows = [{**row, 'outcome': 'trained', 'losses': [1.0], 'factor': 1.0}] * 57
    rows += [{**row, 'outcome': 'broken', 'reason': 'x'}] * 3
    zoo.report(rows, [], tmp_path, 'zoo')
    result = json.loads((tmp_path / 'zoo.json').read_text())
    assert result['verdict'] == 'partly' and '95.0 %' in result['why']
    zoo.report(rows[:57] + [{**row, 'outcome': 'unavailable', 'reason': 'x'}] * 3, [], tmp_path, '')
    assert json.loads((tmp_path / 'zoo.json').read_text())['verdict'] == 'met'
    zoo.report(rows[:57], [], tmp_path, 'zoo')
    assert json.loads((tmp_path / 'zoo.json').read_text())['verdict'] == 'partly'


def test_a_run_that_takes_too_much_is_ended(zoo, monkeypatch, tmp_path):
    import zoo_run

    path = str(zoo.zoo('mmpretrain') / 'lenet/lenet5_mnist.py')
    monkeypatch.setattr(zoo_run, 'MEMORY_GIB', 3)
    found = zoo_run.attempt(_greedy, path, (), 1.0, tmp_path / 'log')
    assert not found['ok'] and 'alloc' in found['error']
    monkeypatch.setattr(zoo_run, 'CPU_SECONDS', 1)
    found = zoo_run.attempt(_endless, path, (), 1.0, tmp_path / 'log')
    assert not found['ok'] and 'limits: 1 s' in found['error']
    assert not zoo_run.attempt(_online, path, (), 1.0, tmp_path / 'log')['ok']


def test_errors_name_no_folder_of_this_machine(zoo):
    import zoo_run

    lenet = zoo.zoo('mmpretrain') / 'lenet/lenet5_mnist.py'
    text = zoo_run.error_text(ValueError(f'cannot read\n  {lenet}'))
    assert text == 'ValueError: cannot read mmpretrain/.mim/configs/lenet/lenet5_mnist.py'


def _greedy(path, overlays, factor, folder):
    return {'size': torch.ones(2**30).numel()}


def _endless(path, overlays, factor, folder):
    while True:
        pass


def _online(path, overlays, factor, folder):
    import socket

    socket.create_connection(('192.0.2.1', 80), timeout=1)
    return {}


def test_sizes_shrink_and_fractions_stay(zoo):
    import zoo_run

    steps = [dict(type='RandomResize', scale=(1333, 800), ratio_range=(0.1, 2.0)),
             dict(type='RandomAffine', border=(-320, -320)),
             dict(type='RandomChoice', transforms=[[dict(scales=[(480, 640)])]]),
             dict(type='RandomCrop', crop_size=(0.3, 0.3))]  # fmt: skip
    zoo_run.resize(steps, 0.15)
    assert steps[0] == dict(type='RandomResize', scale=(192, 128), ratio_range=(0.1, 2.0))
    assert steps[1]['border'] == (-48, -48)
    assert steps[2]['transforms'][0][0]['scales'] == [(64, 96)]
    assert steps[3]['crop_size'] == (0.3, 0.3)
