"""Shipped configs: they load, build, and the index names them."""

import functools
import re
from pathlib import Path

import mmengine.config.utils
import pytest
import yaml
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / 'configs').rglob('*.py')
    if not {'_base_', 'overlays'} & set(path.parts)
)


def plugins():
    found = (ROOT / 'mmext/plugins').iterdir()
    return sorted(path.name for path in found if (path / '__init__.py').exists())


@pytest.fixture(scope='module')
def quick_lookups():
    """For each base of a host, MMEngine reads all 200 metafiles of the host, seconds each time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mmengine.config.utils, 'load', functools.cache(mmengine.config.utils.load))
        yield


#: Models that were built: the configs of one model on several data sets share it.
BUILT: set[str] = set()


@pytest.mark.parametrize('config', CONFIGS)
def test_a_config_builds_its_model_without_downloads(config, quick_lookups):
    cfg = Config.fromfile(ROOT / config)
    init_default_scope(cfg.default_scope)
    options = re.sub(r"'sequential_backward': \w+,? ?", '', repr(cfg.model))
    if 'train_cfg' in cfg:
        kinds = [hook.type for hook in cfg.get('custom_hooks', [])]
        assert 'mmext.PlainCheckpointHook' in kinds, 'its checkpoints hold objects of MMEngine'
    if options in BUILT:
        return
    model = MODELS.build(cfg.model)
    assert sum(parameter.numel() for parameter in model.parameters())
    BUILT.add(options)


def test_basenames_are_unique():
    names = [Path(config).name for config in CONFIGS]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize('plugin', plugins())
def test_a_plugin_has_card_metafile_and_evidence(plugin):
    folder = ROOT / 'configs' / plugin
    card = (folder / 'README.md').read_text()
    meta = yaml.safe_load((folder / 'metafile.yml').read_text())
    assert 'arxiv.org' in meta['Collections'][0]['Paper']['URL']
    for entry in (*meta['Collections'], *meta['Models']):
        for path in (entry.get('Config'), entry.get('README'), entry.get('Code', {}).get('URL')):
            assert path is None or (ROOT / path).exists(), path
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    assert f'configs/{plugin}/metafile.yml' in index['Import']
    # A plugin without evidence says so.
    measured = list((ROOT / 'projects' / plugin / 'results').glob('*.json'))
    assert measured or 'study has not been run' in card


def test_every_plugin_imports_only_what_plugins_may():
    for path in (ROOT / 'mmext/plugins').rglob('*.py'):
        own = path.relative_to(ROOT / 'mmext/plugins').parts[0]
        for line in path.read_text().splitlines():
            if line.lstrip().startswith(('from mmext.plugins', 'import mmext.plugins')):
                assert f'mmext.plugins.{own}' in line, f'{path}: {line}'
