"""Start a new plugin: a small method that works, with everything a plugin here has.

Writes the functional core, a registered class, config, overlay, method card, metafile and tests,
and enters the plugin into registry, model index, README table and the conformance kit's table. The
method is an example of the kind, there to be replaced, file by file; docs/add_a_plugin.md tells
how. Lint and tests pass before and after. The method card says of itself that it is not written.

Examples:
  mmext new gradient_noise
  mmext new ternary_steps --kind wrapper
  mmext new entropy_sgd --title 'Entropy-SGD' --paper https://arxiv.org/abs/1611.01838
"""

import argparse
import keyword
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from mmext.commands.options import user_errors

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = Path(__file__).resolve().parent / 'plugin_template'
NAME = re.compile(r'[a-z][a-z0-9]*(_[a-z0-9]+)*')
#: Where no paper is named: an address that cannot be taken for one.
NO_PAPER = 'https://arxiv.org/abs/0000.00000'
#: Template -> file of the plugin. What a kind has in a folder of its own replaces the template, or
#: the ``@BODY@`` in it.
FILES = {
    '__init__.py': 'mmext/plugins/{name}/__init__.py',
    'functional.py': 'mmext/plugins/{name}/functional.py',
    'class.py': 'mmext/plugins/{name}/{module}.py',
    'overlay.py': 'configs/overlays/{name}.py',
    'config.py': 'configs/{name}/{name}_lenet_digits.py',
    'card.md': 'configs/{name}/README.md',
    'metafile.yml': 'configs/{name}/metafile.yml',
    'test_functional.py': 'tests/test_plugins/test_{name}/test_{name}_functional.py',
    'test_class.py': 'tests/test_plugins/test_{name}/test_{name}_{module}.py',
}


@dataclass(frozen=True)
class Kind:
    """What the plugins of a kind have in common beside their templates.

    Args:
        module: File of the class.
        suffix: End of the class's name.
        registry: Of MMEngine, that finds the class.
        example: Method that the templates implement.
        takes: Trainings that the plugin serves, in metafile and overlay.
        overlay: Lines of the overlay.
        config: Those that add the plugin to the config; '' where they are the overlay's.
        use: Those that the card shows; '' where they are the overlay's.
        slots: Keys of a config that the overlay occupies.
        needs: Package that not everybody has.
    """

    module: str
    suffix: str
    registry: str
    example: str
    takes: str
    overlay: str
    config: str = ''
    use: str = ''
    slots: str = ''
    needs: str = ''

    def classes(self, name: str) -> list[str]:
        """Names of the classes of a plugin, the main one last: ``ForceRegularizationHook``."""
        stem = ''.join(word.capitalize() for word in name.split('_'))
        amp = [f'{stem}AmpOptimWrapper'] if self.registry == 'OPTIM_WRAPPERS' else []
        return [*amp, stem + self.suffix]


_HOOK = "custom_hooks = [dict(type='mmext.@CLASS@')]"
_HOOK_IN_CONFIG = "custom_hooks = [*_base_.custom_hooks, dict(type='mmext.@CLASS@')]"
_AROUND = "model = dict(type='mmext.@CLASS@', classifier=model)"
_AUGMENT = "data_preprocessor = dict(batch_augments=dict(augments=dict(type='mmext.@CLASS@')))"
#: Word behind ``--kind`` and folder of its templates -> kind.
KINDS = {
    'hook': Kind(
        module='hook',
        suffix='Hook',
        registry='HOOKS',
        example='gradient centralization (arXiv 2004.01461)',
        takes='any training',
        overlay=_HOOK,
        config=_HOOK_IN_CONFIG,
    ),
    'two-pass': Kind(
        module='hook',
        suffix='Hook',
        registry='HOOKS',
        example='the extragradient step (Korpelevich 1976)',
        takes="any training by MMEngine's train_step",
        overlay=_HOOK,
        config=_HOOK_IN_CONFIG,
    ),
    'wrapper': Kind(
        module='optim_wrapper',
        suffix='OptimWrapper',
        registry='OPTIM_WRAPPERS',
        example='block-normalized gradients (arXiv 1707.04822)',
        takes='any training',
        overlay="optim_wrapper = dict(type='mmext.@CLASS@')",
        use="optim_wrapper = dict(\n    type='mmext.@CLASS@',\n    "
        "optimizer=dict(type='SGD', lr=0.1),\n)",
        slots='optim_wrapper.type',
    ),
    'model': Kind(
        module='classifier',
        suffix='Classifier',
        registry='MODELS',
        example='noise on the inputs in training (Bishop 1995)',
        takes='any classifier of MMPretrain',
        overlay="model = dict(type='mmext.@CLASS@', classifier=dict(_host_='classifier'))",
        config=_AROUND,
        use=f'# below any classifier config of yours\n{_AROUND}',
        slots='model',
        needs='mmpretrain',
    ),
    'transform': Kind(
        module='augment',
        suffix='',
        registry='TRANSFORMS',
        example='Cutout (arXiv 1708.04552)',
        takes='any classifier of MMPretrain',
        overlay=f"_host_ = 'classifier'\n{_AUGMENT}",
        config=_AUGMENT,
        use=f'# beside what your data_preprocessor has\n{_AUGMENT}',
        slots='data_preprocessor.batch_augments',
    ),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument('name', help='name of the package, like force_regularization')
    parser.add_argument(
        '--kind', choices=KINDS, default='hook', help='what it registers (default: %(default)s)'
    )
    parser.add_argument('--title', help='name for people (default: made of the name)')
    parser.add_argument(
        '--paper', default=NO_PAPER, metavar='URL',
        help='https://arxiv.org/abs/... (default: a placeholder)',
    )  # fmt: skip
    parser.add_argument(
        '--root', type=Path, default=ROOT, help='checkout to write into (default: this one)'
    )


def check_name(name: str, kind: Kind, root: Path) -> None:
    """Refuse a name that cannot be a package or is in use.

    Args:
        name: Of the package.
        kind: Of the plugin.
        root: The checkout.

    Raises:
        ValueError: The message says what is wrong and what to do.
    """
    if not NAME.fullmatch(name) or len(name) > 24:
        raise ValueError(
            f'NAME={name!r} must be lower case words joined by single underscores, at most 24 '
            'characters, as in force_regularization'
        )
    if keyword.iskeyword(name) or keyword.issoftkeyword(name) or name in sys.stdlib_module_names:
        raise ValueError(f'NAME={name!r} is a word of Python: choose another')
    if kind.registry == 'OPTIM_WRAPPERS' and name.split('_')[-1] == 'amp':
        # Overlays make the name of the counterpart for mixed precision by this word.
        raise ValueError(f'NAME={name!r} of an optimizer wrapper must not end in amp')
    present = [path for path in _targets(name, kind, root).values() if path.exists()]
    folders = [root / 'mmext/plugins' / name, root / 'configs' / name]
    present += [folder for folder in folders if folder.exists() and any(folder.iterdir())]
    if present:
        where = ', '.join(str(path.relative_to(root)) for path in present[:3])
        raise ValueError(f'NAME={name!r} is taken: {where} exists')
    owners = (root / 'mmext/registry.py').read_text()
    if known := [cls for cls in kind.classes(name) if f"'{cls}'" in owners]:
        raise ValueError(f'NAME={name!r} is taken: mmext.{known[0]} exists')


def fields(name: str, kind: Kind, title: str | None, paper: str, root: Path) -> dict[str, str]:
    """Placeholder -> text.

    Args:
        name: Of the package.
        kind: Of the plugin.
        title: Name for people, or None.
        paper: Its address.
        root: The checkout.

    Raises:
        ValueError: Title or address cannot be used.
    """
    if not re.fullmatch(r'https://arxiv\.org/abs/\d{4}\.\d{4,5}', paper):
        raise ValueError(f'--paper {paper!r} must be like https://arxiv.org/abs/1611.01838')
    title = title or ' '.join(name.split('_')).capitalize()
    if re.search(r'["\\\n@|]', title) or not 0 < len(title.strip()) <= 40:
        raise ValueError(f'--title {title!r} must be 1 to 40 characters without any of " \\ @ |')
    version = re.search(r"'(.+)'", (root / 'mmext/version.py').read_text())
    classes = kind.classes(name)
    told = {
        'NAME': name,
        'MODULE': kind.module,
        'CLASS': classes[-1],
        'AMP': classes[0],
        'EXPORTED': _lines([f"'{cls}': '{kind.module}'" for cls in classes], 8),
        'TITLE': title,
        'QUOTED_TITLE': title.replace("'", "''"),
        'COLLECTION': classes[-1].removesuffix(kind.suffix),
        'URL': paper,
        'EXAMPLE': kind.example,
        'TAKES': kind.takes,
        'SLOTS': kind.slots,
        'NEEDS': kind.needs,
        'VERSION': version[1] if version else '0.1.0',
    }
    for place in ('overlay', 'config', 'use'):
        told[place.upper()] = _filled(getattr(kind, place) or kind.overlay, told)
    return told


def insertions(name: str, kind: Kind) -> list[tuple[str, str, str]]:
    """Shared file, pattern and entry: the entry goes right behind what the pattern finds."""
    classes = [repr(cls) for cls in kind.classes(name)]
    owned = f'{classes[0]},' if len(classes) == 1 else f'\n        {_lines(classes, 8)}\n    '
    settings = (
        f"    PluginSettings(\n        '{name}',\n"
        f"        {{'mmext.{kind.classes(name)[-1]}': '{kind.registry}'}},\n"
        f"        hosts.classifier,\n        '{name}',\n    ),\n"
    )
    found = [
        ('mmext/registry.py', _end_of(r'OWNERS: .*= \{', '}'),
         f"    'mmext.plugins.{name}': ({owned}),\n"),
        ('model-index.yml', r'\A(?:.*\n)+', f'  - configs/{name}/metafile.yml\n'),
        ('tests/plugin_settings.py', _end_of(r'PLUGINS = \[', ']'), settings),
    ]  # fmt: skip
    if kind.needs:
        entry = f"    'mmext.plugins.{name}': ('{kind.needs}',),\n"
        found.append(('mmext/registry.py', _end_of(r'NEEDS: .*= \{', '}'), entry))
    return found


def create(name: str, kind: str, title: str | None, paper: str, root: Path) -> list[Path]:
    """Write the plugin; all files or none.

    Args:
        name: Of the package.
        kind: One of :data:`KINDS`.
        title: Name for people; None: made of the name.
        paper: Its address.
        root: The checkout to write into.

    Returns:
        list of Path: The files that were written.

    Raises:
        ValueError: Bad name, title or address, or a shared file has no place for the entry.
    """
    if not (root / 'mmext/registry.py').exists():
        raise ValueError(f'{root} is no checkout of mmext: name one by --root')
    about = KINDS[kind]
    check_name(name, about, root)
    told = fields(name, about, title, paper, root)
    written = {}
    for source, target in _targets(name, about, root).items():
        shared, own = TEMPLATE / f'{source}.in', TEMPLATE / kind / f'{source}.in'
        body = own.read_text() if own.exists() else ''
        text = shared.read_text().replace('@BODY@\n', body) if shared.exists() else body
        written[target] = _filled(text, told)
    for cls in about.classes(name):
        for target, text in written.items():
            if re.search(rf'^from (?!mmext\.plugins|\.).* import .*\b{cls}\b', text, re.MULTILINE):
                where = target.relative_to(root)
                raise ValueError(f'NAME={name!r} makes a class {cls}, which {where} imports')
    for file, pattern, entry in insertions(name, about):
        text = written.get(root / file) or (root / file).read_text()
        place = re.search(pattern, text, re.MULTILINE)
        if place is None:
            raise ValueError(f'{file} has no place for {name}: {pattern!r} is not found')
        written[root / file] = text[: place.end()] + entry + text[place.end() :]
    for path, text in written.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return list(written)


def _targets(name: str, kind: Kind, root: Path) -> dict[str, Path]:
    return {
        source: root / target.format(name=name, module=kind.module)
        for source, target in FILES.items()
    }


def _filled(text: str, told: dict[str, str]) -> str:
    return re.sub(r'@([A-Z_]+)@', lambda match: told[match[1]], text)


def _lines(items: list[str], indent: int) -> str:
    """One item a line, each with its comma."""
    return f'\n{" " * indent}'.join(f'{item},' for item in items)


def _end_of(opening: str, closing: str) -> str:
    """Pattern of a literal at the top of a file, up to its closing bracket."""
    return rf'^{opening}\n(?:.*\n)*?(?=^\{closing}\n)'


def run(args: argparse.Namespace) -> None:
    """Write the plugin; exit with code 2 on mistakes in the command line."""
    root = args.root.resolve()
    with user_errors('mmext new'):
        written = create(args.name, args.kind, args.title, args.paper, root)
    # The list of plugins in README.md and docs/compatibility.md are made of the metafiles.
    for script in ('projects/evidence.py', 'projects/compatibility.py'):
        if (root / script).exists():
            subprocess.run([sys.executable, str(root / script)], check=True)
    for path in written:
        sys.stdout.write(f'{path.relative_to(root)}\n')
    if args.paper == NO_PAPER:
        sys.stdout.write(f'no --paper: {NO_PAPER} stands in its place\n')
    sys.stdout.write('next: docs/add_a_plugin.md\n')
