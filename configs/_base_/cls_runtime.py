# Runtime shared by mmext's MMPretrain configs. Configs keep the host's scope and prefix ours.
_base_ = './runtime.py'

default_scope = 'mmpretrain'
default_hooks = dict(checkpoint=dict(interval=10))
visualizer = dict(
    type='UniversalVisualizer', vis_backends=[dict(type='LocalVisBackend')], name='visualizer'
)
