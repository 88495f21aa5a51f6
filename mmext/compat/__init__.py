"""What the OpenMMLab stack lacks on today's torch.

:mod:`mmext.compat.mmcv_ops` gives mmcv installations without compiled operators a ``mmcv._ext`` on
torchvision's kernels. Nothing is imported here: each module is cheap to import and is used by name.
"""
