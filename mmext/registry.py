"""Child registries of scope ``mmext``, one for every MMEngine registry.

``type='mmext.X'`` works in any config of the ecosystem without ``custom_imports``: MMEngine imports
this module when it meets the scope. It then would import every location of every plugin for one
name. These registries look the name up in :data:`OWNERS` and import only the module that defines
it, so a run that uses one optimizer wrapper never imports mmdet, PyAV or grpc.
"""

import difflib
from importlib import import_module

from mmengine import registry as _root
from mmengine.logging import print_log
from mmengine.registry import Registry

from .compat import config_text as _config_text

_config_text.install()

#: Module -> names it registers, when it is imported or when it is asked for the class.
OWNERS: dict[str, tuple[str, ...]] = {
    'mmext.engine.hooks': ('CurvesHook', 'IterSeedHook', 'RichProgressHook'),
    'mmext.attacks.attack_model': ('AttackModelHook',),
    'mmext.attacks.load_adversarial_image': ('LoadAdversarialImage',),
    'mmext.attacks.robust_accuracy': ('RobustAccuracy',),
    'mmext.attacks.robustness_loop': ('RobustnessTestLoop', 'RobustnessValLoop'),
    'mmext.engine.hooks.autocast': ('AutocastHook',),
    'mmext.engine.hooks.channels_last': ('ChannelsLastHook',),
    'mmext.engine.hooks.plain_checkpoint': ('PlainCheckpointHook',),
    'mmext.engine.loops': ('ResumableIterTrainLoop',),
    'mmext.engine.sharding': ('FSDP2Strategy', 'ShardedRunner'),
    'mmext.datasets.array_images': ('ArrayImages',),
    'mmext.datasets.casia_hwdb': ('CASIAHWDBDataset',),
    'mmext.datasets.degrade': ('Degrade', 'PackGANInputs'),
    'mmext.datasets.digits': ('DigitsDataset',),
    'mmext.datasets.ellipse_boxes': ('ToEllipseBoxes',),
    'mmext.datasets.glyphs': ('GlyphDataset',),
    'mmext.datasets.hq_subset': ('HQSubset',),
    'mmext.datasets.letters': ('LettersDataset',),
    'mmext.datasets.memory': ('InMemoryDataset', 'collate_batch'),
    'mmext.datasets.stl10': ('STL10Dataset',),
    'mmext.datasets.office': ('OfficeDataset',),
    'mmext.datasets.photo_pairs': ('PhotoPairs',),
    'mmext.datasets.photos': ('PhotoCrops',),
    'mmext.datasets.streams': ('MultiSourceSampler', 'SeededConcatDataset'),
    'mmext.datasets.svhn': ('SVHNDataset',),
    'mmext.datasets.unlabelled_images': ('UnlabelledImages',),
    'mmext.evaluation.generative_metrics': ('GenerativeMetrics',),
    'mmext.models.cifar_resnet': ('CifarResNet',),
    'mmext.models.efficientnet_lite': ('EfficientNetLite',),
    'mmext.models.crop_flip_preprocessor': ('CropFlipPreprocessor',),
    'mmext.models.googlenet': ('GoogLeNet',),
    'mmext.models.small_googlenet': ('SmallGoogLeNet',),
    'mmext.models.small_squeezenet': ('SmallSqueezeNet',),
    'mmext.models.strided_lenet': ('StridedLeNet',),
    'mmext.plugins.conv_m': (
        'AccuracyReportHook',
        'CORALLoss',
        'ConvM',
        'ConvMNet',
        'DomainAdaptationClassifier',
        'DomainAdversarialLoss',
        'DropLabel',
        'InvLR',
        'JMMDLoss',
        'LabelAdaptation',
        'LabelFreeSelection',
        'MKMMDLoss',
        'TwoDomainDataset',
        'TwoDomainLoopHook',
        'TwoDomainPreprocessor',
        'TwoDomainSampler',
    ),
    'mmext.plugins.cst': (
        'CycleSelfTraining',
        'CycleTeacherHook',
        'CycleValLoop',
        'DistributionConsistency',
        'DistributionConsistencyHook',
    ),
    'mmext.plugins.ctf_gan': (
        'CTFGAN',
        'GANDataPreprocessor',
        'GANOptimWrapperConstructor',
        'LabelHistogramHook',
        'ProjDiscriminator',
        'SNGANGenerator',
        'SampleGridHook',
        'TransferNet',
    ),
    'mmext.plugins.force_regularization': (
        'ComponentLassoHook',
        'ForceRegularizationHook',
        'TrainedRankPruningHook',
    ),
    'mmext.plugins.force_regularization.lenet': ('CaffeLeNet',),
    'mmext.plugins.force_regularization.low_rank_model': ('LowRank',),
    'mmext.plugins.guided_cw': ('CWAttack',),
    'mmext.plugins.mat': (
        'MATAugment',
        'MATClassifier',
    ),
    'mmext.plugins.randomized_smoothing': (
        'ADREClassifier',
        'CertifiedRadius',
        'SmoothedClassifier',
    ),
    'mmext.plugins.terngrad': (
        'ErrorFeedbackHook',
        'TernGradAmpOptimWrapper',
        'TernGradOptimWrapper',
    ),
    'mmext.plugins.terngrad.networks': ('BNAlexNet', 'CifarNet'),
    'mmext.plugins.smoothout': ('KeskarC1', 'SAMHook', 'SharpnessHook', 'SmoothOutHook'),
    'mmext.plugins.mvstylizer.parts': (
        'AffinePropagation',
        'Bicubic',
        'BudgetAware',
        'FixedInterval',
        'FlowBlend',
        'GuidedAffine',
        'GuidedFilter',
        'Hold',
        'MKLColorTransfer',
        'MetaSmoothing',
        'NeuralColorMapping',
        'ResidualTrigger',
        'WarpPrevious',
        'WaveletStylizer',
    ),
}

#: Module prefix -> packages it needs that not everybody has, by their import names; how they are
#: installed says :func:`mmext.compat.environment.install_command`.
NEEDS: dict[str, tuple[str, ...]] = {
    'mmext.datasets.office': ('mmpretrain',),
    'mmext.models': ('mmpretrain',),
    'mmext.models.small_googlenet': ('torchvision',),
    'mmext.plugins.conv_m': ('mmpretrain',),
    'mmext.plugins.cst': ('mmdet', 'torchvision'),
    'mmext.plugins.force_regularization.lenet': ('mmpretrain',),
    'mmext.plugins.mat': ('mmpretrain',),
    'mmext.plugins.mvstylizer': ('cv2',),
    'mmext.plugins.randomized_smoothing': ('mmpretrain', 'scipy'),
}

_OWNER_OF = {name: module for module, names in OWNERS.items() for name in names}


class LazyRegistry(Registry):
    """Registry that imports the owner of a name when the name is asked for."""

    def import_from_location(self) -> None:
        """Do nothing: :meth:`get` imports exactly the module that owns the name."""

    def get(self, key: str):
        """Return the class registered as ``key`` (``'X'`` or ``'mmext.X'``), or None.

        Raises:
            ImportError: The owner of ``key`` needs a package that is not installed; the message
                has the command that installs it.
        """
        scope, name = self.split_scope_key(key)
        if scope in (None, self.scope) and name in _OWNER_OF and name not in self._module_dict:
            import_owner(name)
        found = super().get(key)
        if found is None and scope in (None, self.scope):
            close = difflib.get_close_matches(name, _OWNER_OF, n=3)
            if close:
                print_log(
                    f'"{key}" is not a class of mmext; did you mean '
                    + ' or '.join(f'"mmext.{match}"' for match in close)
                    + '?',
                    logger='current',
                    level=30,
                )
        return found


def short_name(kind: str | type) -> str:
    """Name of a type in a config without its scope."""
    return (kind if isinstance(kind, str) else kind.__name__).rpartition('.')[2]


def import_owner(name: str) -> None:
    """Import what registers ``name``.

    Raises:
        ImportError: A package that it needs is missing.
    """
    module = _OWNER_OF[name]
    try:
        # The packages of the plugins import a class when they are asked for it.
        getattr(import_module(module), name, None)
    except ImportError as error:
        missing = (error.name or '').partition('.')[0]
        for prefix, packages in NEEDS.items():
            if module.startswith(prefix) and missing in packages:
                from .compat.environment import install_command

                raise ImportError(
                    f"type='mmext.{name}' needs the package {missing}, which is not installed: "
                    f'{install_command(missing)}',
                    name=error.name,
                ) from error
        raise


def registered(name: str):
    """Return what is registered as ``mmext.<name>``, whatever its registry.

    Raises:
        AttributeError: There is no such name.
        ImportError: As :func:`import_owner`.
    """
    if name not in _OWNER_OF:
        raise AttributeError(f"module 'mmext' has no attribute {name!r}")
    import_owner(name)
    nodes = (node for node in globals().values() if isinstance(node, LazyRegistry))
    return next(node.module_dict[name] for node in nodes if name in node.module_dict)


def _child(name: str) -> LazyRegistry:
    parent = getattr(_root, name)
    return LazyRegistry(parent.name, parent=parent, scope='mmext', build_func=parent.build_func)


RUNNERS = _child('RUNNERS')
RUNNER_CONSTRUCTORS = _child('RUNNER_CONSTRUCTORS')
LOOPS = _child('LOOPS')
HOOKS = _child('HOOKS')
STRATEGIES = _child('STRATEGIES')
DATASETS = _child('DATASETS')
DATA_SAMPLERS = _child('DATA_SAMPLERS')
TRANSFORMS = _child('TRANSFORMS')
MODELS = _child('MODELS')
MODEL_WRAPPERS = _child('MODEL_WRAPPERS')
WEIGHT_INITIALIZERS = _child('WEIGHT_INITIALIZERS')
OPTIMIZERS = _child('OPTIMIZERS')
OPTIM_WRAPPERS = _child('OPTIM_WRAPPERS')
OPTIM_WRAPPER_CONSTRUCTORS = _child('OPTIM_WRAPPER_CONSTRUCTORS')
PARAM_SCHEDULERS = _child('PARAM_SCHEDULERS')
METRICS = _child('METRICS')
EVALUATOR = _child('EVALUATOR')
TASK_UTILS = _child('TASK_UTILS')
VISUALIZERS = _child('VISUALIZERS')
VISBACKENDS = _child('VISBACKENDS')
LOG_PROCESSORS = _child('LOG_PROCESSORS')
INFERENCERS = _child('INFERENCERS')
FUNCTIONS = _child('FUNCTIONS')
# Parts of MVStylizer that no registry of MMEngine holds; trained stylizers are MODELS as well.
STYLIZERS = LazyRegistry('stylizer', scope='mmext')
UPSCALERS = LazyRegistry('upscaler', scope='mmext')
PROPAGATIONS = LazyRegistry('propagation', scope='mmext')
KEYFRAME_POLICIES = LazyRegistry('keyframe policy', scope='mmext')
