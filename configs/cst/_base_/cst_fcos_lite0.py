# Cycle self-training of FCOS with a pretrained backbone, fast on a CPU.
_base_ = [
    '../../_base_/models/fcos_lite0.py',
    '../../_base_/schedules/lite0_950it.py',
    '../../_base_/default_runtime.py',
]

model = dict(
    type='mmext.CycleSelfTraining',
    detector=_base_.detector,
    consistency=dict(type='mmext.DistributionConsistency', kind='js', temperature=0.25),
    semi_train_cfg=dict(
        score_thr=0.5,
        ignore_score_thr=0.15,
        score_power=0.5,
        # Without it every sixth pseudo-box is a second class for an object that has one.
        agnostic_nms_iou=0.6,
        unsup_weight=2.0,
    ),
    semi_test_cfg=dict(predict_on='teacher1'),
    data_preprocessor=dict(
        type='MultiBranchDataPreprocessor', data_preprocessor=_base_.preprocessor
    ),
)
custom_hooks = [
    *_base_.custom_hooks,
    dict(
        type='mmext.CycleTeacherHook',
        momentum=0.01,
        burn_in=500,
        ramp_up=100,
        handover='average',
        clip_grad=dict(max_norm=10),
    ),
    dict(type='mmext.DistributionConsistencyHook'),
    dict(type='mmext.AutocastHook'),
    dict(type='mmext.ChannelsLastHook'),
]
val_cfg = dict(_delete_=True, type='mmext.CycleValLoop', networks=['teacher1', 'teacher2'])
auto_scale_lr = dict(base_batch_size=16)
# A checkpoint has the batch-norm statistics of rank 0, by which the teachers predict: without this
# the other ranks would resume with different ones.
model_wrapper_cfg = dict(type='MMDistributedDataParallel', broadcast_buffers=True)
