"""List the plugins and their papers, or what one of them takes, needs and costs.

Examples:
  mmext plugins
  mmext plugins terngrad
  mmext plugins --json
"""

import argparse
import json
import sys

from mmext import shipped
from mmext.commands.options import user_errors


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument('name', nargs='?', help='a plugin')
    parser.add_argument('--json', action='store_true', help='as JSON')


def run(args: argparse.Namespace) -> None:
    """Write the list; exit with code 2 if there is no such plugin."""
    found = shipped.plugins()
    overlays = shipped.overlays()
    told = {
        name: {'Paper': entry['Paper'], **entry['Plugin'], 'Overlay': name in overlays}
        for name, entry in found.items()
    }
    with user_errors('mmext plugins'):
        if args.name is not None and args.name not in told:
            raise ValueError(f'there is no plugin {args.name!r}; choose from {", ".join(told)}')
    if args.json:
        sys.stdout.write(json.dumps(told[args.name] if args.name else told, indent=2) + '\n')
    elif args.name:
        sys.stdout.write(_card(args.name, told[args.name]))
    else:
        width = max(map(len, told))
        for name, about in told.items():
            sys.stdout.write(f'{name:<{width}}  {about["Summary"]}\n')
        sys.stdout.write('\nadd one to a training: mmext train CONFIG --with NAME\n')


def _card(name: str, about: dict) -> str:
    paper = about['Paper']
    alone = f"a config of its own, or type='{about['Type']}'"
    use = f'--with {name}' if about['Overlay'] else alone
    rows = {'paper': f'{paper["Title"]}, {paper["URL"]}', 'does': about['Summary'], 'use': use}
    for key in ('Takes', 'Needs', 'Extra Passes', 'Extra Memory', 'Wire Bits', 'Composes With'):
        value = about[key]
        if value:
            rows[key.lower()] = ', '.join(value) if isinstance(value, list) else value
    rows['card'] = f'configs/{name}/README.md'
    width = max(map(len, rows))
    return f'{name}\n' + ''.join(f'  {key:<{width}}  {value}\n' for key, value in rows.items())
