"""What a decomposition did."""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class LayerReport:
    """One convolution before and after.

    ``rank`` is None where the layer stayed as it was, ``kept`` then says why. Ranks and
    ``break_even`` are per group, ``macs`` per image. ``eps`` is the share of the squared norm that
    was lost. Latency is in milliseconds, None where it was not measured.
    """

    name: str
    shape: tuple[int, ...]
    groups: int
    full_rank: int
    break_even: float
    rank: int | None = None
    kept: str = ''
    eps: float = 0.0
    params_before: int = 0
    params: int = 0
    macs_before: int = 0
    macs: int = 0
    ms_before: float | None = None
    ms: float | None = None


@dataclass
class Report:
    """What :func:`decompose` did; ``layers`` has every convolution in the model's order.

    ``macs`` and ``params`` count all convolutions and linear layers. ``ms`` is the latency of one
    forward, None without ``inputs``.
    """

    method: str
    layers: list[LayerReport] = field(default_factory=list)
    macs_before: int = 0
    macs: int = 0
    params_before: int = 0
    params: int = 0
    ms_before: float | None = None
    ms: float | None = None

    @property
    def ranks(self) -> dict[str, int]:
        """Name -> rank of the decomposed layers, as ``mmext.LowRank`` takes it."""
        return {layer.name: layer.rank for layer in self.layers if layer.rank is not None}

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain numbers, strings and lists."""
        return asdict(self)
