#!/usr/bin/env python
"""Start a new plugin: a small method that works, with everything a plugin here has.

Writes the functional core, a registered hook, config, overlay, method card, metafile and tests, and
enters the plugin into registry, model index, README table and the conformance kit's table. The
method (gradient centralization) is there to be replaced, file by file; docs/add_a_plugin.md tells
how. Lint and tests pass before and after.

Examples:
    python tools/new_plugin.py gradient_noise
    python tools/new_plugin.py entropy_sgd --title 'Entropy-SGD' --paper https://arxiv.org/abs/1611.01838
"""

import argparse
import keyword
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TEMPLATE = Path(__file__).resolve().parent / 'plugin_template'
NAME = re.compile(r'[a-z][a-z0-9]*(_[a-z0-9]+)*')
PAPER = 'https://arxiv.org/abs/2004.01461'
#: Template -> file of the plugin.
FILES = {
    '__init__.py': 'mmext/plugins/{name}/__init__.py',
    'functional.py': 'mmext/plugins/{name}/functional.py',
    'hook.py': 'mmext/plugins/{name}/hook.py',
    'overlay.py': 'configs/overlays/{name}.py',
    'config.py': 'configs/{name}/{name}_lenet_digits.py',
    'card.md': 'configs/{name}/README.md',
    'metafile.yml': 'configs/{name}/metafile.yml',
    'test_functional.py': 'tests/test_plugins/test_{name}/test_{name}_functional.py',
    'test_hook.py': 'tests/test_plugins/test_{name}/test_{name}_hook.py',
}


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog='new_plugin.py',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('name', help='name of the package, like force_regularization')
    parser.add_argument('--title', help='name for people (default: made of the name)')
    parser.add_argument(
        '--paper', default=PAPER, metavar='URL',
        help='https://arxiv.org/abs/... (default: that of the example)',
    )  # fmt: skip
    parser.add_argument(
        '--root', type=Path, default=ROOT, help='checkout to write into (default: this one)'
    )
    return parser.parse_args(argv)


def check_name(name: str, root: Path) -> None:
    """Refuse a name that cannot be a package or is in use.

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
    present = [path for path in _targets(name, root).values() if path.exists()]
    folders = [root / 'mmext/plugins' / name, root / 'configs' / name]
    present += [folder for folder in folders if folder.exists() and any(folder.iterdir())]
    if present:
        where = ', '.join(str(path.relative_to(root)) for path in present[:3])
        raise ValueError(f'NAME={name!r} is taken: {where} exists')


def class_name(name: str) -> str:
    """``force_regularization`` -> ``ForceRegularizationHook``."""
    return ''.join(word.capitalize() for word in name.split('_')) + 'Hook'


def fields(name: str, title: str | None, paper: str, root: Path) -> dict[str, str]:
    """Placeholder -> text."""
    if not re.fullmatch(r'https://arxiv\.org/abs/\d{4}\.\d{4,5}', paper):
        raise ValueError(f'--paper {paper!r} must be like https://arxiv.org/abs/2004.01461')
    title = title or ' '.join(name.split('_')).capitalize()
    if re.search(r'["\\\n@|]', title) or not 0 < len(title.strip()) <= 40:
        raise ValueError(f'--title {title!r} must be 1 to 40 characters without any of " \\ @ |')
    version = re.search(r"'(.+)'", (root / 'mmext/version.py').read_text())
    return {
        'NAME': name,
        'CLASS': class_name(name),
        'TITLE': title,
        'QUOTED_TITLE': title.replace("'", "''"),
        'COLLECTION': class_name(name).removesuffix('Hook'),
        'URL': paper,
        # A hook that only changes gradients goes with all; a test trains it with each.
        'OTHERS': ', '.join(sorted(p.parent.name for p in root.glob('configs/*/metafile.yml'))),
        'VERSION': version[1] if version else '0.1.0',
    }


def insertions(name: str, told: dict[str, str]) -> dict[str, tuple[str, str]]:
    """Shared file -> (pattern, entry): the entry goes right behind what the pattern finds."""
    owner = f"    'mmext.plugins.{name}': ('{told['CLASS']}',),\n"
    settings = (
        f"    PluginSettings('{name}', {{'mmext.{told['CLASS']}': 'HOOKS'}}, hosts.classifier, "
        f"'{name}'),\n"
    )
    if len(settings) > 101:
        settings = (
            f"    PluginSettings(\n        '{name}',\n"
            f"        {{'mmext.{told['CLASS']}': 'HOOKS'}},\n"
            f"        hosts.classifier,\n        '{name}',\n    ),\n"
        )
    return {
        'mmext/registry.py': (r'^OWNERS: .*= \{\n(?:.*\n)*?(?=^\}\n)', owner),
        'model-index.yml': (r'\A(?:.*\n)+', f'  - configs/{name}/metafile.yml\n'),
        'tests/plugin_settings.py': (r'^PLUGINS = \[\n(?:.*\n)*?(?=^\]\n)', settings),
    }


def create(name: str, title: str | None, paper: str, root: Path) -> list[Path]:
    """Write the plugin; all files or none.

    Raises:
        ValueError: Bad name, title or address, or a shared file has no place for the entry.
    """
    if not (root / 'mmext/registry.py').exists():
        raise ValueError(f'{root} is no checkout of mmext: name one by --root')
    check_name(name, root)
    told = fields(name, title, paper, root)
    written = {}
    for source, target in _targets(name, root).items():
        text = (TEMPLATE / f'{source}.in').read_text()
        written[target] = re.sub(r'@([A-Z_]+)@', lambda match: told[match[1]], text)
    for file, (pattern, entry) in insertions(name, told).items():
        text = (root / file).read_text()
        place = re.search(pattern, text, re.MULTILINE)
        if place is None:
            raise ValueError(f'{file} has no place for {name}: {pattern!r} is not found')
        written[root / file] = text[: place.end()] + entry + text[place.end() :]
    for path, text in written.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return list(written)


def _targets(name: str, root: Path) -> dict[str, Path]:
    return {source: root / target.format(name=name) for source, target in FILES.items()}


def main(argv: list[str] | None = None) -> None:
    """Write the plugin; exit with code 2 on mistakes in the command line."""
    args = parse_args(argv)
    root = args.root.resolve()
    try:
        written = create(args.name, args.title, args.paper, root)
    except (ValueError, FileNotFoundError) as error:
        sys.stderr.write(f'new_plugin.py: error: {error}\n')
        raise SystemExit(2) from error
    if (root / 'projects/evidence.py').exists():
        # The list of plugins in README.md is made of the metafiles.
        subprocess.run([sys.executable, str(root / 'projects/evidence.py')], check=True)
    for path in written:
        sys.stdout.write(f'{path.relative_to(root)}\n')
    sys.stdout.write('next: docs/add_a_plugin.md\n')


if __name__ == '__main__':
    main()
