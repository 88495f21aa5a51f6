# SmoothOut on any host: noise of the author's example strength around every gradient.
custom_hooks = [dict(type='mmext.SmoothOutHook', strength=0.006)]
