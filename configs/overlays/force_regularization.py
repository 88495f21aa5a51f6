# Force regularization of any host: the force is a tenth of each layer's gradient.
custom_hooks = [dict(type='mmext.ForceRegularizationHook', strength=0.1, mode='adaptive')]
