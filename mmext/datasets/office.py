"""Office-31 and Office-Caltech-10 from their folders as distributed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.logging import print_log
from mmpretrain.datasets import CustomDataset

from mmext.registry import DATASETS

CLASSES: dict[str, tuple[str, ...]] = {
    'office31': (
        'back_pack', 'bike', 'bike_helmet', 'bookcase', 'bottle', 'calculator', 'desk_chair',
        'desk_lamp', 'desktop_computer', 'file_cabinet', 'headphones', 'keyboard',
        'laptop_computer', 'letter_tray', 'mobile_phone', 'monitor', 'mouse', 'mug',
        'paper_notebook', 'pen', 'phone', 'printer', 'projector', 'punchers', 'ring_binder',
        'ruler', 'scissors', 'speaker', 'stapler', 'tape_dispenser', 'trash_can',
    ),
    'caltech10': (
        'back_pack', 'bike', 'calculator', 'headphones', 'keyboard', 'laptop_computer', 'monitor',
        'mouse', 'mug', 'projector',
    ),
}  # fmt: skip

#: Images of each domain.
COUNTS: dict[str, dict[str, int]] = {
    'office31': {'amazon': 2817, 'dslr': 498, 'webcam': 795},
    'caltech10': {'amazon': 958, 'caltech': 1123, 'dslr': 157, 'webcam': 295},
}
_TITLES = {'office31': 'Office-31', 'caltech10': 'Office-Caltech-10'}


@DATASETS.register_module()
class OfficeDataset(CustomDataset):
    """One domain of Office-31 (31 classes) or Office-Caltech-10 (10 classes).

    Reads ``<data_root>/<domain>/images/<class>/*.jpg``, as Office-31 is distributed, or
    ``<data_root>/<domain>/<class>/*.jpg``. The classes must be exactly those of the set; another
    number of images than the published one is a warning. Labels are the same in all domains.

    Args:
        data_root: Folder that holds the domains.
        domain: 'amazon', 'dslr', 'webcam', or 'caltech' with 'caltech10'.
        variant: 'office31' or 'caltech10'.
        pipeline: Transforms.
        **kwargs: Further arguments of MMPretrain's ``CustomDataset``.

    Raises:
        ValueError: Unknown variant or domain, or the classes are not those of the set; the message
            names the folder that was probably meant.
        FileNotFoundError: The folder of the domain does not exist.

    Example:
        >>> dataset = dict(type='mmext.OfficeDataset', data_root='data/office31', domain='amazon',
        ...                pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')])
    """

    def __init__(
        self,
        data_root: str,
        domain: str,
        variant: str = 'office31',
        pipeline: Sequence[Any] = (),
        **kwargs: Any,
    ) -> None:
        if variant not in CLASSES:
            raise ValueError(f'variant={variant!r} must be one of {", ".join(CLASSES)}')
        if domain not in COUNTS[variant]:
            raise ValueError(
                f'domain={domain!r} must be one of {", ".join(COUNTS[variant])} with '
                f'variant={variant!r}'
            )
        self.domain = domain
        self.variant = variant
        folder = find_domain(Path(data_root).expanduser(), domain, variant)
        super().__init__(
            data_prefix=str(folder),
            metainfo={'classes': CLASSES[variant]},
            pipeline=pipeline,
            **kwargs,
        )

    def load_data_list(self) -> list[dict]:
        """Return all images, sorted by class and name."""
        items = super().load_data_list()
        expected = COUNTS[self.variant][self.domain]
        if len(items) != expected:
            print_log(
                f'{self.data_prefix["img_path"]} has {len(items)} images, '
                f'{_TITLES[self.variant]} {self.domain} is published with {expected}',
                logger='current',
                level=30,
            )
        return items


def find_domain(root: Path, domain: str, variant: str) -> Path:
    """Return the folder of a domain's classes.

    Raises:
        FileNotFoundError: There is none.
        ValueError: Its classes are not those of the set.
    """
    title = _TITLES[variant]
    base = root / domain
    if not base.is_dir():
        raise FileNotFoundError(
            f'{base} does not exist: data_root={str(root)!r} must hold the domains of {title} '
            f'({", ".join(COUNTS[variant])}){_guess(root, domain)}'
        )
    inner = base / 'images'
    folder = inner if inner.is_dir() else base
    found = {path.name for path in folder.iterdir() if path.is_dir()}
    classes = set(CLASSES[variant])
    if found == classes:
        return folder
    for other, names in CLASSES.items():
        if found == set(names):
            raise ValueError(
                f'{folder} holds the {len(found)} classes of {_TITLES[other]}, not the '
                f'{len(classes)} of {title}: set variant={other!r} or another data_root'
            )
    lacking, strange = sorted(classes - found), sorted(found - classes)
    told = [
        f'{kind}: {", ".join(names[:8])}{" ..." if len(names) > 8 else ""}'
        for kind, names in (('missing', lacking), ('unknown', strange))
        if names
    ]
    raise ValueError(
        f'{folder} has {len(found)} folders, the classes of {title} are {len(classes)} '
        f'({"; ".join(told)})'
    )


def _guess(root: Path, domain: str) -> str:
    """Name the folder that was probably meant."""
    domains = {name for names in COUNTS.values() for name in names}
    for above in (root, *root.parents[:2]):
        if above.name in domains and (above.parent / domain).is_dir():
            return f'; this is inside the domain {above.name}: data_root={str(above.parent)!r}'
    if root.is_dir():
        for below in sorted(path for path in root.iterdir() if path.is_dir()):
            if (below / domain).is_dir():
                return f'; did you mean data_root={str(below)!r}?'
    return ''
