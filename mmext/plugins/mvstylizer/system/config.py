"""Settings of the processes, one TOML file each; unknown keys and wrong types are errors."""

import dataclasses
import sys
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

if sys.version_info >= (3, 11):
    import tomllib
else:
    try:
        import tomli as tomllib
    except ImportError as error:
        raise ImportError(
            'configuration on Python 3.10 needs tomli: pip install tomli', name='tomli'
        ) from error

from .aggregation import Bounds
from .limits import Limits
from .link import LinkOptions, Target
from .local_training import TrainOptions
from .player import PlayerOptions

T = TypeVar('T')
NEURAL = {'type': 'mmext.NeuralColorMapping'}


@dataclass(frozen=True)
class PhoneConfig:
    """Settings of a phone.

    Args:
        state (Path): Folder of the device's key and token.
        ca (Path): PEM of the authority of all servers.
        edges (list[Target]): Best first.
        cloud (Target): For enrolment and renewal.
        consent (bool): Edges may keep this phone's frames. Default False.
        policy (dict): ``type`` and arguments of a key-frame policy.
        between (dict): Propagation between two keys.
        causal (dict): Propagation after a key.
        upscaler (dict): For propagations that need full-size keys.
        play (PlayerOptions): Times and sizes.
        link (LinkOptions): Times and sizes.
        log_level (str): Of the JSON log on standard error.
    """

    state: Path
    ca: Path
    edges: list[Target]
    cloud: Target
    consent: bool = False
    policy: dict = field(default_factory=lambda: {'type': 'mmext.ResidualTrigger'})
    between: dict = field(default_factory=lambda: {'type': 'mmext.AffinePropagation'})
    causal: dict = field(default_factory=lambda: {'type': 'mmext.AffinePropagation'})
    upscaler: dict = field(default_factory=lambda: {'type': 'mmext.Bicubic'})
    play: PlayerOptions = field(default_factory=PlayerOptions)
    link: LinkOptions = field(default_factory=LinkOptions)
    log_level: str = 'INFO'


@dataclass(frozen=True)
class CollectConfig:
    """What an edge keeps of consenting phones, see :class:`.Collection`."""

    ttl_s: float = 7 * 86400
    per_device: int = 500
    every: int = 4


@dataclass(frozen=True)
class EdgeConfig:
    """Settings of an edge.

    Args:
        name (str): As in its certificate and token.
        address (str): Where it listens, ``host:port``.
        certificate (Path): PEM.
        key (Path): PEM.
        state (Path): Folder of key, token, models and frames.
        ca (Path): PEM of the authority of all servers.
        issuer (Path): Public key of the cloud's tokens, base64url text.
        cloud (Target): Where to ask for models and work.
        metrics (str): Where Prometheus asks, ``host:port``; empty: nowhere.
        workers (int): Threads that stylise. Default 1.
        quality (int): Of JPEG answers. Default 92.
        poll_s (float): Pause between questions to the cloud. Default 10.
        train (bool): Take part in rounds. Default True.
        stylizer (dict): ``type`` and arguments.
        limits (Limits): What a device may do.
        collect (CollectConfig): What is kept.
        training (TrainOptions): How a round trains.
        log_level (str): Of the JSON log on standard error.
    """

    name: str
    address: str
    certificate: Path
    key: Path
    state: Path
    ca: Path
    issuer: Path
    cloud: Target
    metrics: str = ''
    workers: int = 1
    quality: int = 92
    poll_s: float = 10
    train: bool = True
    stylizer: dict = field(default_factory=lambda: dict(NEURAL))
    limits: Limits = field(default_factory=Limits)
    collect: CollectConfig = field(default_factory=CollectConfig)
    training: TrainOptions = field(default_factory=TrainOptions)
    log_level: str = 'INFO'


@dataclass(frozen=True)
class RoundsConfig:
    """When rounds run.

    Args:
        every_s (float): Pause between rounds. Default 3600.
        min_edges (int): Edges that a round needs. Default 2.
        timeout_s (float): For the answers of the edges. Default 900.
        limit (int): Rounds in the life of the cloud; 0: no limit.
        tolerance (float): See :class:`.Federation`.
    """

    every_s: float = 3600
    min_edges: int = 2
    timeout_s: float = 900
    limit: int = 0
    tolerance: float = 0


@dataclass(frozen=True)
class CloudConfig:
    """Settings of the cloud.

    Args:
        name (str): As in its certificate.
        address (str): Where it listens, ``host:port``.
        certificate (Path): PEM.
        key (Path): PEM.
        state (Path): Folder of the issuer's key, codes, revocations, models and rounds.
        held_out (Path): Folder of pictures that judge a model before it is published.
        metrics (str): Where Prometheus asks, ``host:port``; empty: nowhere.
        token_s (float): Life of a token, seconds. Default one day.
        stylizer (dict): ``type`` and arguments; the same as the edges'.
        rounds (RoundsConfig): When rounds run.
        bounds (Bounds): What an update may be.
        log_level (str): Of the JSON log on standard error.
    """

    name: str
    address: str
    certificate: Path
    key: Path
    state: Path
    held_out: Path
    metrics: str = ''
    token_s: float = 86400
    stylizer: dict = field(default_factory=lambda: dict(NEURAL))
    rounds: RoundsConfig = field(default_factory=RoundsConfig)
    bounds: Bounds = field(default_factory=Bounds)
    log_level: str = 'INFO'


def load(path: Path, kind: type[T]) -> T:
    """Read a TOML file.

    Args:
        path (Path): The file; paths inside are relative to its folder.
        kind (type): One of the configurations here.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no TOML, a key is unknown or missing, or a value has the wrong type.
    """
    try:
        raw = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f'{path}: {error}') from error
    return _made(kind, raw, str(path), path.resolve().parent)


def _made(kind: type[T], raw: Any, where: str, folder: Path) -> T:
    if not isinstance(raw, dict):
        raise ValueError(f'{where} must be a table, not {raw!r}')
    fields = {part.name: part for part in dataclasses.fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(raw.keys() - fields.keys())
    if unknown:
        raise ValueError(f'{where}: unknown {", ".join(unknown)}; there are {", ".join(fields)}')
    missing = [
        name
        for name, part in fields.items()
        if name not in raw
        and part.default is dataclasses.MISSING
        and part.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ValueError(f'{where}: {", ".join(missing)} missing')
    hints = typing.get_type_hints(kind)
    values = {
        name: _value(hints[name], value, f'{where}: {name}', folder) for name, value in raw.items()
    }
    try:
        return kind(**values)
    except ValueError as error:
        raise ValueError(f'{where}: {error}') from error


def _value(hint: Any, value: Any, where: str, folder: Path) -> Any:
    if dataclasses.is_dataclass(hint):
        return _made(typing.cast(type, hint), value, where, folder)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is list:
        if not isinstance(value, list):
            raise ValueError(f'{where} must be a list, not {value!r}')
        return [_value(arguments[0], item, f'{where}[{i}]', folder) for i, item in enumerate(value)]
    if origin in (types.UnionType, typing.Union):
        # An optional number: TOML has no null, so the key is left out.
        hint = next(kind for kind in arguments if kind is not type(None))
    if hint is Path and isinstance(value, str):
        return folder / value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ValueError(f'{where}={value!r} must be a {hint.__name__}')
    return value
