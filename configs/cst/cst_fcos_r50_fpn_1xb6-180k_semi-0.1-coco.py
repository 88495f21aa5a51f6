# FCOS R50-FPN, COCO, 10 % labelled, 1 GPU: 2 labelled images for each student instead
# of 8 per step, so lr 0.01 x 2 / 8, and 2 unlabelled ones; one student graph in memory at a time.
_base_ = './cst_fcos_r50_fpn_8xb6-180k_semi-0.1-coco.py'

train_dataloader = dict(sampler=dict(source_ratio=[2, 2, 2]))
optim_wrapper = dict(optimizer=dict(lr=0.0025))
model = dict(semi_train_cfg=dict(sequential_backward=True))
auto_scale_lr = dict(base_batch_size=6)
