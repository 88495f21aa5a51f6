# Faster R-CNN R50-FPN, VOC 2007 labelled and VOC 2012 unlabelled, 8 GPUs x 6 images. Rule:
# schedule_180k.py
_base_ = ['./_base_/faster_rcnn_r50_fpn.py', './_base_/semi_voc.py', './_base_/schedule_180k.py']

model = dict(detector=dict(roi_head=dict(bbox_head=dict(num_classes=20))))
max_iters = 72000
train_cfg = dict(max_iters=max_iters, val_interval=4000)
param_scheduler = [
    _base_.param_scheduler[0],
    dict(_base_.param_scheduler[1], end=max_iters, milestones=[48000, 64000]),
]
