# FCOS R50-FPN, COCO train2017 labelled, unlabeled2017 unlabelled, 8 GPUs x 6 images,
# four times the iterations. Rule: schedule_180k.py
_base_ = './cst_fcos_r50_fpn_8xb6-180k_semi-0.1-coco.py'

train_dataloader = _base_.train_dataloader
for source in train_dataloader.dataset.datasets[:2]:
    source.ann_file = 'annotations/instances_train2017.json'
del source
train_dataloader.dataset.datasets[2].update(
    ann_file='annotations/instances_unlabeled2017.json', data_prefix=dict(img='unlabeled2017/')
)
max_iters = 720000
train_cfg = dict(max_iters=max_iters)
param_scheduler = [
    _base_.param_scheduler[0],
    dict(_base_.param_scheduler[1], end=max_iters, milestones=[480000, 640000]),
]
