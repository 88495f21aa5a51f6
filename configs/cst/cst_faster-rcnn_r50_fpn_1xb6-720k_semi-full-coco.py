# Faster R-CNN R50-FPN, COCO full and unlabeled2017, 1 GPU: 2 labelled images for each student
# instead of 8 per step, so lr 0.01 x 2 / 8, and 2 unlabelled ones; one student graph in memory.
_base_ = './cst_faster-rcnn_r50_fpn_8xb6-720k_semi-full-coco.py'

train_dataloader = dict(sampler=dict(source_ratio=[2, 2, 2]))
optim_wrapper = dict(optimizer=dict(lr=0.0025))
model = dict(semi_train_cfg=dict(sequential_backward=True))
auto_scale_lr = dict(base_batch_size=6)
