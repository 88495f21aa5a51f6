# Faster R-CNN R50-FPN on COCO, 5 % labelled, 8 GPUs x 6 images. Rule: schedule_180k.py
_base_ = './cst_faster-rcnn_r50_fpn_8xb6-180k_semi-0.1-coco.py'

train_dataloader = _base_.train_dataloader
for source in train_dataloader.dataset.datasets:
    source.ann_file = source.ann_file.replace('@10', '@5')
del source
