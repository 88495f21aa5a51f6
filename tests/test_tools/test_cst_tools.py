"""Tools around CST: export to a plain detector, pictures of pseudo-labels, COCO splits."""

import ast
import json
import pickle
import re
import subprocess
import sys
from pathlib import Path

import mmdet
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmext.commands.main import main

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / 'configs/cst/cst_fcos_r18_digits.py'


@pytest.fixture(scope='module')
def trained(scenes, tmp_path_factory):
    """Config on the small scenes and a checkpoint of CST with random weights; finds boxes."""
    folder = tmp_path_factory.mktemp('cst')
    cfg = Config.fromfile(CONFIG)
    text = repr(cfg.to_dict()).replace('data/digit_scenes', str(scenes)).replace('@2', '@25')
    cfg = Config(ast.literal_eval(text))
    cfg.model.detector.backbone.init_cfg = None
    cfg.model.detector.test_cfg.score_thr = 1e-3
    cfg.model.semi_train_cfg.update(score_thr=0.06, ignore_score_thr=0.05)
    for loader in (cfg.test_dataloader, cfg.train_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
    (folder / 'config.py').write_text(
        '\n'.join(f'{key} = {value!r}' for key, value in cfg.to_dict().items())
    )
    init_default_scope('mmdet')
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    classes = tuple('0123456789')
    state = dict(state_dict=model.state_dict(), meta=dict(dataset_meta=dict(classes=classes)))
    torch.save(state, folder / 'cst.pth')
    return folder


def test_exported_teacher_predicts_the_same_in_mmdetections_own_test_tool(
    tool, trained, tmp_path, capsys
):
    out = tmp_path / 'plain' / 'teacher2'
    tool('model_converters/export_detector').main(
        [str(trained / 'config.py'), str(trained / 'cst.pth'), '--network', 'teacher2',
         '--out', str(out)]
    )  # fmt: skip
    assert str(out.with_suffix('.py')) in capsys.readouterr().out
    assert 'mmext' not in out.with_suffix('.py').read_text()
    assert torch.load(out.with_suffix('.pth'), weights_only=True)['meta']['network'] == 'teacher2'
    theirs = [sys.executable, Path(mmdet.__file__).parent / '.mim/tools/test.py',
              out.with_suffix('.py'), out.with_suffix('.pth'), '--work-dir', tmp_path / 'theirs',
              '--out', tmp_path / 'theirs.pkl']  # fmt: skip
    done = subprocess.run(theirs, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    main(
        ['test', str(trained / 'config.py'), str(trained / 'cst.pth'),
         '--work-dir', str(tmp_path / 'ours'), '--out', str(tmp_path / 'ours.pkl'),
         '--cfg-options', 'model.semi_test_cfg.predict_on=teacher2']
    )  # fmt: skip
    found = [pickle.loads((tmp_path / f'{name}.pkl').read_bytes()) for name in ('theirs', 'ours')]
    assert len(found[0]) == len(found[1]) == 6
    assert sum(len(image['pred_instances']['scores']) for image in found[0]) > 10
    for a, b in zip(*found, strict=True):
        for key in ('bboxes', 'scores', 'labels'):
            np.testing.assert_array_equal(a['pred_instances'][key], b['pred_instances'][key])


@pytest.mark.parametrize(
    'network, message',
    [('teacher', "no network 'teacher'; it has .*'student1'"), ('ensemble', 'no single detector')],
)
def test_what_cannot_be_exported_is_named(tool, trained, tmp_path, capsys, network, message):
    with pytest.raises(SystemExit, match='2'):
        tool('model_converters/export_detector').main(
            [str(trained / 'config.py'), str(trained / 'cst.pth'), '--network', network,
             '--out', str(tmp_path / 'x')]
        )  # fmt: skip
    assert re.search(message, capsys.readouterr().err)


def test_pictures_of_pseudo_labels(tool, trained, scenes, tmp_path, capsys):
    out = tmp_path / 'boxes.png'
    tool('analysis_tools/browse_pseudo_labels').main(
        [str(trained / 'config.py'), str(trained / 'cst.pth'), '--out', str(out), '--images', '3',
         '--truth', str(scenes / 'annotations/instances_train.json')]
    )  # fmt: skip
    said = capsys.readouterr().out
    assert '3 images' in said and ' 0 boxes of T1' not in said
    assert out.stat().st_size > 10_000


def test_pseudo_labels_lie_on_the_original_image_with_its_truth(trained, scenes):
    from mmext.plugins.cst.pictures import pseudo_labels

    cfg = Config.fromfile(trained / 'config.py')
    init_default_scope('mmdet')
    model = MODELS.build(cfg.model)
    model.load_state_dict(torch.load(trained / 'cst.pth', weights_only=False)['state_dict'])
    model.eval()
    truth = scenes / 'annotations/instances_train.json'
    picture = next(pseudo_labels(model, cfg, truth))
    coco = json.loads(truth.read_text())
    image = next(i for i in coco['images'] if i['file_name'] == Path(picture.path).name)
    boxes = [a['bbox'] for a in coco['annotations'] if a['image_id'] == image['id']]
    assert [box for box, _ in picture.truth] == [(x, y, x + w, y + h) for x, y, w, h in boxes]
    for found in picture.teachers:
        assert len(found) and found.bboxes.min() >= 0 and found.bboxes.max() <= image['width']


def test_split_coco_prints_what_it_wrote(tool, scenes, tmp_path, capsys):
    source = scenes / 'annotations/instances_train.json'
    tool('dataset_converters/split_coco').main(
        [str(source), '--out', str(tmp_path), '--percent', '50', '--folds', '1']
    )
    assert 'instances_train.1@50.json: 12 images' in capsys.readouterr().out
    with pytest.raises(SystemExit, match='percent=0'):
        tool('dataset_converters/split_coco').main([str(source), '--percent', '0'])
