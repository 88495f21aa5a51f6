"""Files that OpenMMLab packages ship, found without importing the packages: configs, overlays,
metafiles."""

import difflib
import fnmatch
from importlib.util import find_spec
from pathlib import Path
from typing import Any

#: Packages whose configs :func:`find_configs` searches where none is named.
HOSTS = ('mmext', 'mmpretrain', 'mmdet')


def config_folder(package: Path) -> Path:
    """Folder of the configs of an OpenMMLab package, given the folder of its code.

    A wheel carries them in ``.mim``; a checkout on PYTHONPATH has them beside the package.
    """
    folders = [package / '.mim' / 'configs', package.parent / 'configs']
    return next((folder for folder in folders if folder.is_dir()), folders[0])


def configs_of(package: str) -> Path:
    """Folder of the configs of an installed package.

    Raises:
        FileNotFoundError: It is not installed.
    """
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f'the package {package!r} is not installed: pip install {package}')
    return config_folder(Path(spec.submodule_search_locations[0]))


def resolve_config(config: str) -> str:
    """Return the path of a config file.

    Args:
        config: Path, or ``'pkg::relative/config.py'``, a file below the configs of an installed
            OpenMMLab package (``mmext``, ``mmdet``, ``mmpretrain`` …).

    Raises:
        FileNotFoundError: There is no such file or package; the message names similar files.
    """
    package, external, relative = config.rpartition('::')
    try:
        folder = configs_of(package) if external else Path(config).parent
    except FileNotFoundError as error:
        raise FileNotFoundError(f'config {config}: {error}') from error
    path = folder / relative if external else Path(config)
    if path.is_file():
        return str(path)
    nearby = folder.rglob('*.py') if external else folder.glob(f'*{path.suffix}')
    names = [file.relative_to(folder).as_posix() for file in nearby]
    close = difflib.get_close_matches(relative if external else path.name, names, n=3)
    hint = f'; similar: {", ".join(close)}' if close else ''
    raise FileNotFoundError(f'config file {config} does not exist{hint}')


def find_configs(pattern: str = '') -> list[str]:
    """Names of shipped configs, each as ``pkg::relative/config.py``, sorted within a package.

    Args:
        pattern: ``'pkg::text'`` or ``'text'``, which searches all of :data:`HOSTS` that are
            installed. The text is a part of the name, in any case; ``*`` stands for anything.

    Raises:
        FileNotFoundError: The named package is not installed.
    """
    package, named, text = pattern.rpartition('::')
    wanted = f'*{text.lower()}*'
    found = []
    for host in [package] if named else HOSTS:
        try:
            folder = configs_of(host)
        except FileNotFoundError:
            if named:
                raise
            continue
        names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob('*.py'))
        found += [
            f'{host}::{name}'
            for name in names
            if not {'_base_', 'overlays'} & set(name.split('/'))
            and fnmatch.fnmatchcase(name.lower(), wanted)
        ]
    return found


def overlays() -> list[str]:
    """Names of the plugins that ``--with`` knows, sorted."""
    return sorted(path.stem for path in overlay_folder().glob('*.py'))


def own_configs() -> Path:
    """Folder of the configs of mmext."""
    return config_folder(Path(__file__).resolve().parent)


def overlay_folder() -> Path:
    """Folder of the fragments behind ``--with``."""
    return own_configs() / 'overlays'


def plugins(configs: Path | None = None) -> dict[str, dict[str, Any]]:
    """Name of a plugin -> the collection of its metafile, with its ``Plugin`` block.

    Args:
        configs: Folder of configs; None: those of mmext.
    """
    import yaml

    found = {}
    for path in sorted((configs or own_configs()).glob('*/metafile.yml')):
        collection = yaml.safe_load(path.read_text())['Collections'][0]
        if 'Plugin' in collection:
            found[path.parent.name] = collection
    return found
