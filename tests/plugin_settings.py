"""One row for each plugin: what the conformance kit runs, and what pairs are made of."""

from pathlib import Path

from mmengine.config import Config

from mmext.testing import PluginSettings, hosts

CONFIGS = Path(__file__).resolve().parents[1] / 'configs'


def _cst(cfg) -> None:
    """Let the teachers teach in a run of three iterations."""
    cfg.model.semi_train_cfg = dict(score_thr=0.01)
    # An untrained teacher has no confident box.
    cfg.model.detector.test_cfg.score_thr = 1e-4
    teacher_hook = next(h for h in cfg.custom_hooks if h.type == 'mmext.CycleTeacherHook')
    teacher_hook.update(burn_in=1, ramp_up=0)


def _adaptation(data: Path) -> Config:
    """Conv-M's digit config with 8 + 8 images in a batch and all losses between domains."""
    cfg = Config(Config.fromfile(CONFIGS / 'conv_m/conv-m-da_fontdigits2digits.py').to_dict())
    loader = cfg.train_dataloader
    loader.batch_size = loader.sampler.batch_size = 16
    loader.dataset.source.num_samples = loader.dataset.target.indices = 40
    cfg.model.da_losses.update(coral=dict(type='mmext.CORALLoss'), jmmd=dict(type='mmext.JMMDLoss'))
    return cfg


def _gan(data: Path) -> Config:
    """CTF-GAN's digit config with networks of some thousand weights."""
    cfg = Config(Config.fromfile(CONFIGS / 'ctf_gan/ctf-gan-ssl_digits.py').to_dict())
    cfg.model.generator.update(base_channels=8, noise_size=8)
    cfg.model.discriminator.base_channels = 8
    cfg.model.transfer.base_channels = 4
    loader = cfg.train_dataloader
    loader.batch_size = loader.sampler.batch_size = 8
    for source in loader.dataset.datasets:
        source.index_file = None
        source.dataset.indices = 100
    cfg.custom_hooks = [
        hook for hook in cfg.custom_hooks if not hook.type.endswith('SampleGridHook')
    ]
    return cfg


def _smoothing(data: Path) -> Config:
    """MVStylizer's upscaling network on two small crops of photos."""
    cfg = Config(Config.fromfile(CONFIGS / 'mvstylizer/meta-smoothing_photos.py').to_dict())
    cfg.train_dataloader.batch_size = 2
    cfg.train_dataloader.dataset.update(size=32, num_samples=20)
    # The second begins after the end of a short run.
    cfg.param_scheduler = cfg.param_scheduler[:1]
    return cfg


PLUGINS = [
    PluginSettings(
        'cst',
        {
            'mmext.CycleSelfTraining': 'MODELS',
            'mmext.CycleTeacherHook': 'HOOKS',
            'mmext.DistributionConsistencyHook': 'HOOKS',
            'mmext.DistributionConsistency': 'TASK_UTILS',
        },
        hosts.semi_detector,
        'cst',
        adjust=_cst,
    ),
    PluginSettings(
        'terngrad',
        {'mmext.TernGradOptimWrapper': 'OPTIM_WRAPPERS'},
        hosts.classifier,
        'terngrad',
    ),
    PluginSettings('smoothout', {'mmext.SmoothOutHook': 'HOOKS'}, hosts.classifier, 'smoothout'),
    PluginSettings(
        'guided_cw',
        {'mmext.CWAttack': 'TRANSFORMS', 'mmext.AttackModelHook': 'HOOKS'},
        hosts.classifier,
        'guided_cw',
    ),
    PluginSettings('mat', {'mmext.MATClassifier': 'MODELS'}, hosts.classifier, 'mat'),
    PluginSettings(
        'randomized_smoothing',
        {'mmext.ADREClassifier': 'MODELS'},
        hosts.classifier,
        'randomized_smoothing',
    ),
    PluginSettings(
        'force_regularization',
        {'mmext.ForceRegularizationHook': 'HOOKS'},
        hosts.classifier,
        'force_regularization',
    ),
    PluginSettings(
        'conv_m',
        {
            'mmext.ConvMNet': 'MODELS',
            'mmext.DomainAdaptationClassifier': 'MODELS',
            'mmext.DomainAdversarialLoss': 'MODELS',
            'mmext.MKMMDLoss': 'MODELS',
            'mmext.JMMDLoss': 'MODELS',
            'mmext.CORALLoss': 'MODELS',
            'mmext.LabelAdaptation': 'MODELS',
            'mmext.DropLabel': 'TRANSFORMS',
            'mmext.TwoDomainDataset': 'DATASETS',
            'mmext.TwoDomainSampler': 'DATA_SAMPLERS',
            'mmext.InvLR': 'PARAM_SCHEDULERS',
        },
        _adaptation,
    ),
    PluginSettings(
        'ctf_gan',
        {
            'mmext.CTFGAN': 'MODELS',
            'mmext.SNGANGenerator': 'MODELS',
            'mmext.ProjDiscriminator': 'MODELS',
            'mmext.TransferNet': 'MODELS',
            'mmext.GANOptimWrapperConstructor': 'OPTIM_WRAPPER_CONSTRUCTORS',
            'mmext.LabelHistogramHook': 'HOOKS',
            'mmext.HQSubset': 'DATASETS',
            'mmext.Degrade': 'TRANSFORMS',
        },
        _gan,
    ),
    PluginSettings(
        'mvstylizer',
        {'mmext.MetaSmoothing': 'MODELS', 'mmext.PhotoCrops': 'DATASETS'},
        _smoothing,
    ),
]

#: Plugins that the kit cannot train -> why.
OUTSIDE: dict[str, str] = {}
