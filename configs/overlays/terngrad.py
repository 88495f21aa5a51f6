# Ternary gradients on any host: the codes travel between the ranks of DDP, or one rank ternarizes.
optim_wrapper = dict(type='mmext.TernGradOptimWrapper', clip_factor=2.5)
