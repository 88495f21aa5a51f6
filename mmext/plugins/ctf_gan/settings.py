"""What the dicts in the config of :class:`CTFGAN` may hold."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

SOURCES = ('generated', 'bank', 'none')


@dataclass(frozen=True)
class TaskSettings:
    """Weights of a task that has a head of its own at the discriminator.

    The rotation task (SS-GAN, arXiv 1811.11212: 1.0 and 0.2) and the auxiliary classifier (AC-GAN,
    arXiv 1610.09585; these weights, and that D learns from real images only: ours).

    Args:
        disc_weight: Of the task on real images for the discriminator, >= 0.
        gen_weight: Of the task on fake images for the generator, >= 0.
    """

    disc_weight: float = 1.0
    gen_weight: float = 0.2


@dataclass(frozen=True)
class CtfSettings:
    """How transferring features are trained and used; all ours, the paper's could not be read.

    Args:
        ctf_source: Whose low-quality images are transferred when an image is generated:
            'generated': the generator's own low-resolution stage; 'bank': low-quality training
            images of the class, which leak into every measure of quality; 'none': no CTF.
        rec_weight: Of the L1 loss of T on pairs, >= 0; 0 is unpaired training.
        adv_weight: Of D's judgement of T's results, >= 0.
        lq_weight: Of the L1 distance between the generator's low-resolution stage and its shrunk
            image, >= 0.
        bank_size: Low-quality images per class that 'bank' keeps, >= 1.
    """

    ctf_source: str = 'generated'
    rec_weight: float = 10.0
    adv_weight: float = 0.1
    lq_weight: float = 1.0
    bank_size: int = 4

    def __post_init__(self) -> None:
        if self.ctf_source not in SOURCES:
            raise ValueError(
                f'ctf.ctf_source={self.ctf_source!r} must be one of {", ".join(SOURCES)}'
            )
        if self.bank_size < 1:
            raise ValueError(f'ctf.bank_size={self.bank_size} must be at least 1')
        if not self.rec_weight and not self.adv_weight:
            raise ValueError('ctf.rec_weight and ctf.adv_weight are both 0: T would not learn')


Settings = TypeVar('Settings', TaskSettings, CtfSettings)


def settings_of(kind: type[Settings], given: Mapping[str, Any], name: str) -> Settings:
    """Build the settings.

    Raises:
        ValueError: An entry is unknown or out of its range.
    """
    known = [field.name for field in dataclasses.fields(kind)]
    unknown = [key for key in given if key not in known]
    if unknown:
        raise ValueError(f'{name} has unknown entries {unknown}; there are: {", ".join(known)}')
    weights = tuple(value for key, value in given.items() if key.endswith('_weight'))
    if not all(0 <= weight < float('inf') for weight in weights):
        raise ValueError(f'weights of {name} must be finite and not negative, got {weights}')
    return kind(**given)
