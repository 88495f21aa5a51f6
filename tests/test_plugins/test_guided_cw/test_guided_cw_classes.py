"""CWAttack, LoadAdversarialImage, AttackModelHook and tools/attack.py on a trained model."""

import json
import pickle
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import HOOKS, TRANSFORMS, init_default_scope
from mmpretrain.registry import DATASETS, MODELS
from mmpretrain.structures import DataSample

from mmext.attacks import evaluation
from mmext.attacks.adversarial import PixelSpace, load_classifier
from mmext.attacks.attack_model import attacking_augments
from mmext.attacks.suite import IN_BALL
from mmext.plugins.guided_cw import cw_l2

CONFIG = Path(__file__).resolve().parents[3] / 'configs/guided_cw/victim_lenet_digits.py'
SHORT = dict(steps=25, search_steps=2, lr=0.1, initial_const=0.5)


@pytest.fixture(scope='module', autouse=True)
def scope():
    init_default_scope('mmpretrain')


@pytest.fixture(scope='module')
def victim(tmp_path_factory):
    """(config, checkpoint) of the shipped victim with a narrow layer, trained for a second."""
    folder = tmp_path_factory.mktemp('victim')
    cfg = Config.fromfile(CONFIG)
    cfg.model.backbone.features = cfg.model.head.in_channels = 24
    cfg.test_dataloader.dataset.indices = 24
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    items = list(DATASETS.build({**cfg.train_dataloader.dataset, 'indices': 400}))
    images = torch.stack([item['inputs'] for item in items])
    labels = torch.cat([item['data_samples'].gt_label for item in items])
    inputs = model.data_preprocessor({'inputs': images})['inputs']
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    for _ in range(25):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    torch.save(dict(state_dict=model.state_dict()), folder / 'victim.pth')
    # Not dump, which formats for seconds.
    (folder / 'victim.py').write_text(cfg_text(cfg))
    return str(folder / 'victim.py'), str(folder / 'victim.pth')


def cfg_text(cfg):
    return '\n'.join(f'{key} = {value!r}' for key, value in cfg.to_dict().items()) + '\n'


@lru_cache
def dataset(victim):
    return DATASETS.build(Config.fromfile(victim[0]).test_dataloader.dataset)


def load(victim):
    return load_classifier(Config.fromfile(victim[0]), victim[1])


def digit(victim, index=0):
    item = dataset(victim)[index]
    image = item['inputs'].permute(1, 2, 0).numpy()
    return dict(img=image, gt_label=int(item['data_samples'].gt_label))


def predict(model, image):
    data = model.data_preprocessor({'inputs': torch.from_numpy(image).permute(2, 0, 1)[None]})
    with torch.no_grad():
        return int(model(data['inputs']).argmax())


def test_the_pipeline_form_attacks_the_frozen_model(victim):
    transform = TRANSFORMS.build(
        dict(type='mmext.CWAttack', source=dict(config=victim[0], checkpoint=victim[1]), **SHORT)
    )
    transform = pickle.loads(pickle.dumps(transform))  # as into a loader worker
    model, results = load(victim), digit(victim)
    clean = results['img'].copy()
    assert predict(model, clean) == results['gt_label']
    attacked = transform(results)['img']
    assert attacked.dtype == np.float32 and attacked.shape == clean.shape
    assert attacked.min() >= 0 and attacked.max() <= 255
    assert predict(model, attacked) != results['gt_label']
    assert np.abs(attacked - clean).max() > 1
    pickle.dumps(transform)


def test_bgr_images_are_attacked_in_the_models_channel_order():
    model = MODELS.build(
        dict(
            type='mmpretrain.ImageClassifier',
            data_preprocessor=dict(type='mmpretrain.ClsDataPreprocessor', mean=[10.0, 20, 30],
                                   std=[50.0, 60, 70], to_rgb=True),
            backbone=dict(type='mmpretrain.ResNet_CIFAR', depth=18, base_channels=4,
                          stem_channels=4),
            neck=dict(type='mmpretrain.GlobalAveragePooling'),
            head=dict(type='mmpretrain.LinearClsHead', num_classes=3, in_channels=32),
        )
    ).eval()  # fmt: skip
    options = {**SHORT, 'initial_const': 1000.0}
    transform = TRANSFORMS.build(
        dict(type='mmext.CWAttack', source=dict(config='-', checkpoint='-'), **options)
    )
    transform._frozen = model
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    label = predict(model, image)
    found = transform(dict(img=image, gt_label=label))['img']
    assert predict(model, found) != label
    rgb = torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1)[None] / 255
    space = PixelSpace.of(model)
    expected = cw_l2(
        lambda x: model(space.to_inputs(x)),
        rgb,
        torch.tensor([label]),
        guide='gradient',
        **options,
    ).x_adv
    expected = 255 * expected[0].permute(1, 2, 0).numpy()[..., ::-1]
    np.testing.assert_allclose(found, expected, atol=0.05)


def augmented(victim, **settings):
    cfg = Config.fromfile(victim[0])
    cfg.model.data_preprocessor.batch_augments = dict(
        augments=dict(type='mmext.CWAttack', **{**SHORT, **settings})
    )
    return load_classifier(cfg, victim[1])


class Runner:
    """The part of a Runner that the hook uses."""

    def __init__(self, model):
        self.model, self.seed, self.rank, self.iter = model, 3, 1, 0


def batch(victim):
    items = [dataset(victim)[i] for i in range(12)]
    return dict(
        inputs=torch.stack([item['inputs'] for item in items]),
        data_samples=[item['data_samples'] for item in items],
    )


@pytest.mark.parametrize('probability', [1.0, 0.5])
def test_the_batch_form_attacks_the_model_in_training(victim, probability):
    model = augmented(victim, probability=probability).train()
    hook = HOOKS.build(dict(type='mmext.AttackModelHook'))
    runner = Runner(model)
    hook.before_train(runner)
    hook.before_train_iter(runner, 0, batch(victim))
    clean = load(victim).data_preprocessor(batch(victim))['inputs']
    found = model.data_preprocessor(batch(victim), training=True)
    moved = (found['inputs'] - clean).flatten(1).abs().amax(1) > 1e-3
    labels = torch.cat([sample.gt_label for sample in found['data_samples']])
    model.eval()
    with torch.no_grad():
        right = model(clean).argmax(1) == labels
        fooled = model(found['inputs']).argmax(1) != labels
    assert torch.equal(fooled & right, moved)
    assert moved.sum() >= 8 if probability == 1 else 0 < moved.sum() < 10
    assert not torch.equal(clean, model.data_preprocessor(batch(victim), training=True)['inputs'])
    assert torch.equal(clean, model.data_preprocessor(batch(victim), training=False)['inputs'])


def test_mistakes_in_the_batch_form(victim):
    hook = HOOKS.build(dict(type='mmext.AttackModelHook'))
    with pytest.raises(ValueError, match='found no attack to bind'):
        hook.before_train(Runner(load(victim)))
    model = augmented(victim)
    with pytest.raises(ValueError, match='mmext.AttackModelHook'):
        model.data_preprocessor(batch(victim), training=True)
    model.data_preprocessor.pad_size_divisor = 32
    with pytest.raises(ValueError, match='pad_size_divisor=1'):
        hook.before_train(Runner(model))
    model.data_preprocessor.pad_size_divisor = 1
    hook.before_train(Runner(model))
    with pytest.raises(ValueError, match='several sizes'):
        hook.before_train_iter(
            Runner(model), 0, dict(inputs=[torch.zeros(1, 8, 8), torch.zeros(1, 9, 8)])
        )
    assert len(attacking_augments(model)) == 1
    with pytest.raises(ValueError, match='source='):
        TRANSFORMS.build(dict(type='mmext.CWAttack'))(dict(img=np.zeros((8, 8, 1)), gt_label=0))
    for wrong in (dict(probability=2), dict(guide='sign'), dict(source=dict(config='a'))):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            TRANSFORMS.build(dict(type='mmext.CWAttack', **wrong))


def tool(root, *arguments):
    return subprocess.run(
        [sys.executable, str(root / 'tools/attack.py'), *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=root,
    )


def test_the_tool_attacks_resumes_and_saves(root, victim, tmp_path):
    out, save = tmp_path / 'out', tmp_path / 'adversarial'
    options = ['--attack', 'guided_cw', '--steps', 25, '--search-steps', 2, '--lr', 0.1,
               '--initial-const', 0.5, '--batch-size', 8, '--out', out, '--save', save,
               '--device', 'cpu']  # fmt: skip
    done = tool(root, *victim, *options)
    assert done.returncode == 0, done.stderr[-2000:]
    assert 'robust_accuracy@0.5' in done.stdout and 'success' in done.stdout
    told = json.loads((out / 'attack.json').read_text())
    assert told['images'] == 24 and told['success'] > 80
    assert told['clean_accuracy'] > 70
    assert (out / 'attack.png').stat().st_size > 2000
    lines = (out / 'attack.tsv').read_text().splitlines()
    assert len(lines) == 25 and lines[0].split('\t')[:4] == ['idx', 'label', 'predict', 'success']
    # What is on record is not done again: only the second batch is missing here.
    records = (out / 'records.jsonl').read_text().splitlines(keepends=True)
    kept = records[:9] + records[17:]
    (out / 'records.jsonl').write_text(''.join(kept) + '{"idx": 8, "cut')
    stamps = {p.name: p.stat().st_mtime_ns for p in save.glob('*.npy')}
    done = tool(root, *victim, *options)
    assert done.returncode == 0, done.stderr[-2000:]
    again = json.loads((out / 'attack.json').read_text())
    assert {k: v for k, v in again.items() if k != 'seconds'} == {
        k: v for k, v in told.items() if k != 'seconds'
    }
    renewed = [n for n, stamp in stamps.items() if (save / n).stat().st_mtime_ns != stamp]
    assert sorted(renewed) == [f'{i:07d}.npy' for i in range(8, 16)]
    # The saved images are adversarial for the model, read through the pipeline.
    model, load_image = (
        load(victim),
        TRANSFORMS.build(dict(type='mmext.LoadAdversarialImage', folder=str(save))),
    )
    rows = [json.loads(line) for line in (out / 'records.jsonl').read_text().splitlines()[1:]]
    for row in rows[:6]:
        results = load_image(dict(sample_idx=row['idx']))
        assert results['img_shape'] == (28, 28)
        assert (predict(model, results['img']) != row['label']) == row['success'][0]
    with pytest.raises(FileNotFoundError, match='sample 99 was not attacked'):
        load_image(dict(sample_idx=99))
    with pytest.raises(FileNotFoundError, match='mmext attack'):
        TRANSFORMS.build(dict(type='mmext.LoadAdversarialImage', folder=str(tmp_path)))
    other = tool(root, *victim, *options[:-2], '--device', 'cpu', '--kappa', 1)
    assert other.returncode == 2 and 'records of other settings' in other.stderr


def test_robust_accuracy_of_budgeted_and_minimum_norm_attacks_by_hand(victim):
    rows = [
        dict(label=1, predict=1, l2=[None, 1.0], success=[False, True], first_success=[-1, 3]),
        dict(label=1, predict=1, l2=[0.5, 2.0], success=[True, True], first_success=[1, 1]),
        dict(label=1, predict=1, l2=[None, None], success=[False] * 2, first_success=[-1, -1]),
        dict(label=1, predict=0, l2=[0.0, 0.0], success=[True, True], first_success=[0, 0]),
    ]
    for row in rows:
        row.update(n_forward=2.0, n_backward=1.0, seconds=0.1)
    found = evaluation.summarise(rows, 'pgd', [0.1, 0.2])
    assert found['robust_accuracy'] == {'0.1': 50.0, '0.2': 25.0}
    assert found['clean_accuracy'] == 75 and found['success'] == pytest.approx(200 / 3)
    assert found['l2_mean'] == 1.5 and found['steps_to_first_success'] == 2
    single = [
        {**row, 'l2': row['l2'][1:], 'first_success': row['first_success'][1:]} for row in rows
    ]
    found = evaluation.summarise(single, 'cw', [0.5, 1.0, 3.0])
    assert found['robust_accuracy'] == {'0.5': 75.0, '1': 50.0, '3': 25.0}


@pytest.mark.parametrize(
    'attack', ['pgd', 'fgsm', 'apgd_ce', 'apgd_t', 'square', 'standard', 'ddn', 'fmn', 'cw']
)
def test_every_attack_of_the_tool_runs(victim, tmp_path, attack):
    model = load(victim)
    options = dict(cw=SHORT, fgsm={}, square=dict(queries=60)).get(attack, dict(steps=5))
    options |= dict(queries=20) if attack == 'standard' else {}
    eps = (0.1, 0.3) if attack in IN_BALL else ()
    records = evaluation.attack_dataset(
        model, dataset(victim), range(0, 24, 4), tmp_path, attack=attack, options=options, eps=eps,
        batch_size=4,
    )  # fmt: skip
    assert [row['idx'] for row in records] == list(range(0, 24, 4))
    assert any(row['success'][-1] for row in records)
    assert all(len(row['l2']) == max(len(eps), 1) for row in records)


def test_two_ranks_find_what_one_finds_and_go_on(root, victim, tmp_path):
    options = ['--attack', 'standard', '--eps', 0.05, 0.15, '--steps', 4, '--queries', 15,
               '--batch-size', 5, '--device', 'cpu', '--json']  # fmt: skip
    runs = {}
    for ranks in (1, 2):
        out = tmp_path / 'results' / f'ranks{ranks}'
        done = tool(root, *victim, *options, '--out', out, '--ranks', ranks)
        assert done.returncode == 0, done.stderr[-2000:]
        runs[ranks] = json.loads((out / 'attack.json').read_text())
        assert json.loads(done.stdout)['images'] == 24
        del runs[ranks]['seconds']
    assert runs[1] == runs[2]
    robust = list(runs[1]['robust_accuracy'].values())
    assert runs[1]['clean_accuracy'] > robust[0] > robust[1]
    assert sum(runs[1]['broken_by'].values()) > 0 and runs[1]['norm'] == 'linf'
    page = (tmp_path / 'results' / 'leaderboard.html').read_text()
    assert 'ranks1' in page and 'ranks2' in page
    # One rank goes on with what two have found.
    second = out / 'records.1.jsonl'
    stamp, kept = second.stat().st_mtime_ns, second.read_text().splitlines(keepends=True)
    assert len(kept) == 1 + 10
    first = (out / 'records.jsonl').read_text().splitlines(keepends=True)
    (out / 'records.jsonl').write_text(''.join(first[:-4]))
    done = tool(root, *victim, *options, '--out', out)
    assert done.returncode == 0, done.stderr[-2000:]
    assert second.stat().st_mtime_ns == stamp
    assert (out / 'records.jsonl').read_text().count('"idx"') == 14
    again = json.loads((out / 'attack.json').read_text())
    assert again['robust_accuracy'] == runs[1]['robust_accuracy']


def test_the_tool_warns_of_rounded_inputs(victim, tmp_path):
    model = load(victim)
    forward = model.backbone.forward
    model.backbone.forward = lambda x: forward(x.round())
    records = evaluation.attack_dataset(
        model, dataset(victim), range(6), tmp_path / 'r', attack='pgd', options=dict(steps=2),
        eps=[0.1],
    )  # fmt: skip
    found = evaluation.report(records, tmp_path / 'r', 'pgd', [0.1])
    assert 'zero gradients: 100.0%' in found['warnings'][0]
    assert 'zero gradients' in (tmp_path / 'leaderboard.html').read_text()


def test_the_tools_mistakes_are_one_line(root, victim, tmp_path, capsys):
    config, checkpoint = victim
    other = tmp_path / 'other.pth'
    torch.save(dict(state_dict={}), other)
    for arguments, message in (
        ((config, tmp_path / 'none.pth'), 'does not exist'),
        ((config, other), 'does not fit'),
        ((config, checkpoint, '--attack', 'pgd'), 'needs eps'),
        ((config, checkpoint, '--attack', 'fgsm', '--eps', 8), 'for 8 of 255 write 0.0314'),
        ((config, checkpoint, '--attack', 'ddn', '--kappa', 1), '--kappa: not an option'),
    ):
        with pytest.raises(SystemExit) as stopped:
            _main(root)([*map(str, arguments), '--out', str(tmp_path / 'o'), '--device', 'cpu'])
        assert stopped.value.code == 2
        error = capsys.readouterr().err
        assert 'mmext attack: error: ' in error and message in error


def _main(root):
    from mmext.commands.main import main

    return lambda argv: main(['attack', *argv])


def test_wrong_classes_and_probabilities_are_refused(victim, tmp_path):
    model = load(victim)
    cfg = Config.fromfile(victim[0])
    letters = DATASETS.build(
        dict(type='mmext.GlyphDataset', split='test', classes=30, size=28, num_samples=60,
             pipeline=cfg.pipeline)
    )  # fmt: skip
    with pytest.raises(ValueError, match='classifier has 10 classes, the data set 30'):
        evaluation.attack_dataset(
            model, letters, [0, 1], tmp_path / 'a', attack='ddn', options=dict(steps=2)
        )
    model.head.fc = torch.nn.Sequential(model.head.fc, torch.nn.Softmax(1))
    with pytest.raises(ValueError, match='remove the softmax'):
        evaluation.attack_dataset(
            model, dataset(victim), [0, 1], tmp_path / 'b', attack='ddn', options=dict(steps=2)
        )


def test_padding_survives_in_saved_images(victim, tmp_path):
    """Images of two sizes in one batch; each is saved in its own size."""
    backbone = dict(type='mmpretrain.ResNet_CIFAR', depth=18, base_channels=4, stem_channels=4)
    model = MODELS.build(
        dict(type='mmpretrain.ImageClassifier', backbone=backbone,
             data_preprocessor=dict(type='mmpretrain.ClsDataPreprocessor', mean=[9.0] * 3,
                                    std=[50.0] * 3, to_rgb=True),
             neck=dict(type='mmpretrain.GlobalAveragePooling'),
             head=dict(type='mmpretrain.LinearClsHead', num_classes=3, in_channels=32))
    ).eval()  # fmt: skip
    draws = torch.Generator().manual_seed(0)
    items = [
        dict(
            inputs=torch.randint(0, 256, (3, *size), generator=draws, dtype=torch.uint8),
            data_samples=DataSample(metainfo=dict(img_shape=size)).set_gt_label(0),
        )
        for size in ((16, 12), (9, 16))
    ]
    evaluation.attack_dataset(
        model, items, [0, 1], tmp_path, attack='fgsm', options={}, eps=[0.0], batch_size=2,
        save=_folder(tmp_path / 'saved'),
    )  # fmt: skip
    for index, item in enumerate(items):
        saved = np.load(tmp_path / 'saved' / f'{index:07d}.npy')
        np.testing.assert_allclose(saved, item['inputs'].permute(1, 2, 0).numpy(), atol=1e-2)


def _folder(path):
    path.mkdir()
    return path
