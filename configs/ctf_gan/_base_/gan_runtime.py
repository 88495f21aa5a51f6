# Runtime of the GANs: iterations of the discriminator, three optimizers, nothing but MMEngine.
_base_ = '../../_base_/iter_runtime.py'

custom_hooks = [
    *_base_.custom_hooks,
    dict(type='mmext.LabelHistogramHook'),
    dict(type='mmext.SampleGridHook', interval=500),
]
model_wrapper_cfg = dict(
    type='MMSeparateDistributedDataParallel', broadcast_buffers=False, find_unused_parameters=False
)
val_cfg = dict()
test_cfg = dict()
adam = dict(type='Adam', lr=2e-4, betas=(0.0, 0.9))
optim_wrapper = dict(
    constructor='mmext.GANOptimWrapperConstructor',
    generator=dict(optimizer=adam),
    discriminator=dict(optimizer=adam),
    transfer=dict(optimizer=adam),
)
# Scores, accuracies and gates as means of the window, too: those of one batch say little.
log_processor = dict(mean_pattern=r'.*(loss|time|grad_norm|score|accuracy|gate).*')
