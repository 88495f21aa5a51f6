# A GPU check without downloads: Faster R-CNN R50-FPN from scratch on the digit scenes enlarged to
# 640 px, 4 labelled images for each student and 8 unlabelled ones per step.
_base_ = [
    './_base_/faster_rcnn_r50_fpn.py',
    '../_base_/datasets/digit_scenes_semi.py',
    './_base_/schedule_180k.py',
]

model = dict(
    detector=dict(
        # The file's pretrained backbone has frozen batch norm; from scratch it must train.
        backbone=dict(init_cfg=None, frozen_stages=-1, norm_eval=False),
        roi_head=dict(bbox_head=dict(num_classes=10)),
    )
)


def enlarge(steps):
    for step in steps:
        if step.type == 'Resize':
            step.pop('scale_factor')
            step.scale = (640, 640)
        for branch in step.values():
            if isinstance(branch, list) and branch and hasattr(branch[0], 'type'):
                enlarge(branch)


train_dataloader = _base_.train_dataloader
val_dataloader = _base_.val_dataloader
test_dataloader = _base_.test_dataloader
for source in (
    *train_dataloader.dataset.datasets,
    val_dataloader.dataset,
    test_dataloader.dataset,
):
    enlarge(source.pipeline)
del source
train_dataloader.num_workers = 8
max_iters = 2000
train_cfg = dict(max_iters=max_iters, val_interval=500)
optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=0.0005, weight_decay=0.01))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=100),
    dict(type='CosineAnnealingLR', eta_min_ratio=0.02, begin=1200, end=max_iters, by_epoch=False),
]
default_hooks = dict(checkpoint=dict(interval=500))
custom_hooks = [
    *_base_.custom_hooks[:-2],
    dict(
        type='mmext.CycleTeacherHook',
        momentum=0.004,
        burn_in=800,
        ramp_up=200,
        clip_grad=dict(max_norm=10),
    ),
    dict(type='mmext.DistributionConsistencyHook'),
]
auto_scale_lr = dict(base_batch_size=16)
