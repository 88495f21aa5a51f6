"""What scripts that measure share: options, turns, a clock, a process of its own."""

import argparse
import multiprocessing
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import torch

T = TypeVar('T')


def options(
    doc: str, arguments: Sequence[str] | None = None, **defaults: Any
) -> argparse.Namespace:
    """``--quick`` and an option for each default; those of the plugin's other scripts are left.

    Args:
        doc: Of the script.
        arguments: In the place of those of the command line.
        defaults: Option, with ``_`` for ``-``, and its default, whose type values get.
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument('--quick', action='store_true', help='short, to see that it works')
    for name, value in defaults.items():
        option, kind = f'--{name.replace("_", "-")}', type(value)
        parser.add_argument(option, type=kind, default=value, help='default: %(default)s')
    return parser.parse_known_args(arguments)[0]


def in_turns(
    ways: Mapping[Any, Callable[[], T]], rounds: int, warm_up: int = 1
) -> dict[Any, list[T]]:
    """What each way returned, round by round; a machine that slows down slows all of them."""
    found: dict[Any, list[T]] = {name: [] for name in ways}
    for index in range(warm_up + rounds):
        for name, way in ways.items():
            told = way()
            if index >= warm_up:
                found[name].append(told)
    return found


def now() -> float:
    """Time in seconds, when a GPU has nothing left to do."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def clocked(call: Callable[[], object], clock: Callable[[], float] = now) -> Callable[[], float]:
    """A function that calls another and returns the seconds that it took."""

    def seconds() -> float:
        began = clock()
        call()
        return clock() - began

    return seconds


def afresh(function: Callable[..., T], *arguments: Any, **environment: str) -> T:
    """Result of a function of a script in a new process, which has imported that script alone."""
    context = multiprocessing.get_context('spawn')
    with mock.patch.dict(os.environ, environment), ProcessPoolExecutor(1, context) as pool:
        return pool.submit(function, *arguments).result()


def peak_mib() -> float:
    """Largest resident set of this process so far, in MiB."""
    lines = Path('/proc/self/status').read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith('VmHWM')) / 1024
