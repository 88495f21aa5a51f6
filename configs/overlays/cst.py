# Cycle self-training of a plain detector on one's own images, in the place of the teacher and
# student of any of MMDetection's semi-supervised configs, or around a detector whose training data
# have the branches.
_completes_ = 'mmext.plugins.cst.own_data.from_config'
_needs_ = dict(
    transform='MultiBranch',
    fix='name your images by --labelled FILE.json --unlabelled FOLDER (semi.labelled and '
    'semi.unlabelled in the config or --cfg-options), take a config with labelled and unlabelled '
    'images in branches, such as '
    'mmdet::soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py, or '
    'leave cst out',
)
_replaces_ = ['MeanTeacherHook']
# One's own images: the arguments of mmext.plugins.cst.own_data.add_own_data.
semi = dict()
model = dict(
    type='mmext.CycleSelfTraining',
    detector=dict(_host_='detector'),
    consistency=dict(type='mmext.DistributionConsistency', kind='js'),
    semi_train_cfg=dict(score_thr=0.7, ignore_score_thr=0.5, unsup_weight=4.0),
    data_preprocessor=dict(
        type='MultiBranchDataPreprocessor', data_preprocessor=dict(_host_='data_preprocessor')
    ),
)
custom_hooks = [
    # What is 'auto' follows from the length of the training.
    dict(
        type='mmext.CycleTeacherHook',
        momentum='auto',
        burn_in='auto',
        ramp_up='auto',
        clip_grad=dict(max_norm=35),
    ),
    dict(type='mmext.DistributionConsistencyHook'),
]
# In the place of the loop that looks for one teacher and one student.
val_cfg = dict(type='ValLoop')
# A checkpoint has the batch-norm statistics of rank 0 alone, and the teachers predict by them: so
# that a resumed run is exact, all ranks have those of rank 0.
model_wrapper_cfg = dict(type='MMDistributedDataParallel', broadcast_buffers=True)
