# Runtime shared by mmext's MMDetection configs. Configs keep the host's scope and prefix ours.
_base_ = './iter_runtime.py'

default_scope = 'mmdet'
default_hooks = dict(
    checkpoint=dict(interval=300),
    visualization=dict(type='DetVisualizationHook'),
)
visualizer = dict(type='DetLocalVisualizer')
