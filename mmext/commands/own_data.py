"""Options of a training on one's own images."""

import argparse

#: Option -> (key of the config that it is short for, help).
OPTIONS = {
    '--labelled': ('semi.labelled', 'COCO file of your labelled images, for --with cst'),
    '--unlabelled': ('semi.unlabelled', 'folder of your unlabelled images, or a COCO file of them'),
    '--labelled-images': (
        'semi.images',
        'folder of the labelled images (default: where they are found near the file)',
    ),
    '--val': ('semi.val', 'COCO file of images to evaluate on'),
}


def add_own_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--labelled``, ``--unlabelled``, ``--labelled-images`` and ``--val``."""
    group = parser.add_argument_group('your own images, for semi-supervised plugins')
    for option, (key, text) in OPTIONS.items():
        group.add_argument(option, dest=key, metavar='PATH', help=f'{text}; short for {key}=PATH')


def own_data_options(args: argparse.Namespace) -> dict[str, str]:
    """What they are short for: dotted key of the config -> value, of those that were given."""
    given = {key: getattr(args, key) for key, _ in OPTIONS.values()}
    return {key: value for key, value in given.items() if value is not None}
