# Runtime shared by mmext's MMPretrain configs. Configs keep the host's scope and prefix ours.
default_scope = 'mmpretrain'
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', interval=10, max_keep_ckpts=2),
    sampler_seed=dict(type='DistSamplerSeedHook'),
)
custom_hooks = [
    dict(type='mmext.IterSeedHook'),
    dict(type='mmext.RichProgressHook'),
    dict(type='mmext.CurvesHook'),
    dict(type='mmext.PlainCheckpointHook'),
]
env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
visualizer = dict(
    type='UniversalVisualizer', vis_backends=[dict(type='LocalVisBackend')], name='visualizer'
)
log_level = 'INFO'
randomness = dict(seed=0)
load_from = None
resume = False
