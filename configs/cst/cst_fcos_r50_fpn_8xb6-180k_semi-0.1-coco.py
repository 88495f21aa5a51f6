# FCOS R50-FPN on COCO, 10 % labelled, 8 GPUs x 6 images. Rule: schedule_180k.py
_base_ = ['./_base_/fcos_r50_fpn.py', './_base_/semi_coco.py', './_base_/schedule_180k.py']
