# Sharpness-aware minimization of any host, to compare with; twice the time of a step.
custom_hooks = [dict(type='mmext.SAMHook', rho=0.05)]
