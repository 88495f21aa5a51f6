"""MMDetection's own tools train a project of theirs whose only additions are `type='mmext.…'`."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

CONFIG = """
_base_ = 'mmdet::_base_/default_runtime.py'
root = {root!r}
meta = dict(classes=tuple('0123456789'))
branches = ['sup', 'unsup_teacher', 'unsup_student']
keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'homography_matrix')
pack = dict(type='PackDetInputs', meta_keys=keys)
resize = dict(type='Resize', scale=(80, 80), keep_ratio=True)

def dataset(ann_file, pipeline, labelled):
    return dict(
        type='CocoDataset', data_root=root, metainfo=meta, ann_file=ann_file,
        data_prefix=dict(img='train/'), filter_cfg=dict(filter_empty_gt=labelled),
        pipeline=pipeline)

labelled = dataset('annotations/semi/instances_train.1@25.json', [
    dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True), resize,
    dict(type='MultiBranch', branch_field=branches, sup=pack)], True)
unlabelled = dataset('annotations/semi/instances_train.1@25-unlabeled.json', [
    dict(type='LoadImageFromFile'), dict(type='LoadEmptyAnnotations', with_bbox=True),
    dict(type='MultiBranch', branch_field=branches, unsup_teacher=[resize, pack],
         unsup_student=[resize, dict(type='RandAugment', aug_num=1), pack])], False)
train_dataloader = dict(
    batch_size=4, num_workers=0, sampler=dict(
        type='MultiSourceSampler', batch_size=4, source_ratio=[1, 1]),
    dataset=dict(type='ConcatDataset', datasets=[labelled, unlabelled]))
train_cfg = dict(type='IterBasedTrainLoop', max_iters=3, val_interval=100)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.001))
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=3), logger=dict(interval=1))
log_processor = dict(by_epoch=False)
preprocessor = dict(type='DetDataPreprocessor', pad_size_divisor=32)
model = dict(
    type='mmext.CycleSelfTraining',
    detector=dict(
        type='RetinaNet', data_preprocessor=preprocessor,
        backbone=dict(type='ResNet', depth=18, base_channels=8, out_indices=(2, 3)),
        neck=dict(type='FPN', in_channels=[32, 64], out_channels=16, num_outs=2),
        bbox_head=dict(
            type='RetinaHead', num_classes=10, in_channels=16, feat_channels=16, stacked_convs=1,
            anchor_generator=dict(
                type='AnchorGenerator', scales=[2], ratios=[1.0], strides=[16, 32]),
            bbox_coder=dict(type='DeltaXYWHBBoxCoder')),
        train_cfg=dict(
            assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4),
            sampler=dict(type='PseudoSampler'), allowed_border=-1, pos_weight=-1, debug=False),
        test_cfg=dict(nms_pre=50, score_thr=0.001, nms=dict(type='nms', iou_threshold=0.5),
                      max_per_img=5)),
    semi_train_cfg=dict(score_thr=0.005),
    data_preprocessor=dict(type='MultiBranchDataPreprocessor', data_preprocessor=preprocessor))
custom_hooks = [dict(type='mmext.CycleTeacherHook', burn_in=1),
                dict(type='mmext.DistributionConsistencyHook')]
"""


installed = pytest.mark.skipif(
    find_spec('_mmext_startup') is None or '_mmext_startup' not in sys.modules,
    reason='mmext is not installed here (only on the path), so its start-up file did not run',
)


@installed
def test_mmdets_own_train_tool(scenes, tmp_path):
    config = tmp_path / 'project.py'
    config.write_text(CONFIG.format(root=f'{scenes}/'))
    mmdet = Path(find_spec('mmdet').submodule_search_locations[0])
    environment = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
    done = subprocess.run(
        [sys.executable, mmdet / '.mim/tools/train.py', config, '--work-dir', tmp_path / 'out'],
        env={**environment, 'OMP_NUM_THREADS': '1'},
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / 'out/iter_3.pth').exists()
    log = done.stdout + done.stderr
    assert 'student1_unsup_loss_cls' in log and 'dcr/js_mean' in log


@installed
def test_mmpretrains_own_train_tool_takes_a_config_of_ours_as_base(tmp_path):
    config = tmp_path / 'project.py'
    config.write_text(
        "_base_ = 'mmext::smoothout/smoothout_c1_digits.py'\n"
        'train_cfg = dict(max_epochs=1, val_interval=5)\n'
        'default_hooks = dict(checkpoint=dict(interval=1))\n'
    )
    mmpretrain = Path(find_spec('mmpretrain').submodule_search_locations[0])
    environment = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
    done = subprocess.run(
        [sys.executable, mmpretrain / '.mim/tools/train.py', config,
         '--work-dir', tmp_path / 'out'],
        env={**environment, 'OMP_NUM_THREADS': '1'},
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / 'out/epoch_1.pth').exists()
    assert 'smoothout/strength' in done.stdout + done.stderr
