"""Runs of a study, each in a process and a folder of its own, made once and resumable."""

import contextlib
import json
import multiprocessing
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from .folders import digest_of, forget_other, taken, write_json

#: Exit code of a study that left off before its end; the same command goes on.
UNFINISHED = 75
#: Option of the command line -> hook that every arm gets.
SPEED = {'amp': 'mmext.AutocastHook', 'channels_last': 'mmext.ChannelsLastHook'}


@dataclass(frozen=True)
class Run:
    """One training of a study, as its ``train`` gets it.

    Args:
        arm: What is compared: ``name``, ``title`` and ``options``.
        setting: Where it is compared, in the same form.
        seed: Of everything that is drawn.
        split: ``test``, or ``val`` in a search or a pilot.
        quick: A few iterations are enough.
        values: Search -> value, of the searches that this arm takes part in.
        speed: Keys of :data:`SPEED` that are switched on, for all arms alike.
        work: Folder of the study.
        folder: Folder of this run; what a killed run left there may be resumed.
        before: Arm -> its run of the same setting and seed, of those that this arm comes after.
        stamp: All that the record depends on.
    """

    arm: Any
    setting: Any
    seed: int
    split: str
    quick: bool
    values: Mapping[str, Any]
    speed: tuple[str, ...]
    work: Path
    folder: Path
    before: Mapping[str, 'Run']
    stamp: str = field(repr=False)

    @property
    def title(self) -> str:
        """For messages."""
        value = ''.join(f', {name} {value}' for name, value in self.values.items())
        place = f'{self.setting.title}, ' if self.setting.title else ''
        return f'{place}{self.arm.title}{value}, seed {self.seed}'

    def speed_hooks(self) -> list[dict]:
        """Configs of the hooks that make trainings faster, for ``custom_hooks``."""
        return [dict(type=SPEED[name]) for name in self.speed]

    def read(self) -> dict | None:
        """The record, None where the run is not finished or was of another stamp."""
        stamp, path = self.folder / 'settings.sha256', self.folder / 'record.json'
        if not path.exists() or stamp.read_text() != digest_of(self.stamp):
            return None
        return json.loads(path.read_text())

    def keep(self, record: Mapping[str, Any]) -> None:
        """Write the record."""
        forget_other(self.folder, self.stamp)
        known = {'arm': self.arm.name, 'setting': self.setting.name, 'seed': self.seed}
        write_json(self.folder / 'record.json', {**known, 'split': self.split, **record})


def make(run: Run, train: Callable[[Run], dict]) -> None:
    """Train a run and keep its record; nothing if it is there or another process has it."""
    with taken(run.folder) as free:
        if not free:
            return
        forget_other(run.folder, run.stamp)
        if run.read() is None:
            run.keep(measured(run, train))


def measured(run: Run, train: Callable[[Run], dict]) -> dict:
    """Record of a training with its cost, which the training may tell itself, as resumed ones do.

    Core minutes are those of this process and of its children; memory is the growth of the largest
    resident set.
    """
    wall, cores, start = time.monotonic(), _core_seconds(), _peak_mib()
    found = train(run)
    return {
        'core_minutes': (_core_seconds() - cores) / 60,
        'wall_minutes': (time.monotonic() - wall) / 60,
        'memory_mib': _peak_mib() - start,
        **found,
    }


def _core_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(part.ru_utime + part.ru_stime for part in used)


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def lighten() -> None:
    """Spare each run what MMEngine does for seconds: versions of compilers, formatted configs."""
    if 'mmengine' in sys.modules:
        import mmengine.runner.runner
        from mmengine.config import Config

        mmengine.runner.runner.collect_env = dict
        Config.pretty_text = property(
            lambda cfg: ''.join(f'{key} = {value!r}\n' for key, value in cfg._cfg_dict.items())
        )


def apart(folder: Path, function: Callable, *arguments: Any) -> None:
    """Call a function in a process of its own, as a run is, for what runs have in common.

    Raises:
        SystemExit: It failed, or another process does the same.
    """
    with taken(folder) as free:
        if not free:
            sys.exit(f'{folder} is being made by another process: start again in a minute')
        process = multiprocessing.get_context('fork').Process(
            target=_child, args=(folder, function, *arguments)
        )
        process.start()
        process.join()
    if process.exitcode:
        sys.exit(f'{(folder / "log.txt").read_text()[-1500:]}\n{folder} could not be made')


def _child(folder: Path, function: Callable, *arguments: Any) -> None:
    """What a process of a run does; its output is in ``log.txt``."""
    os.environ.update(OMP_NUM_THREADS='1', MKL_NUM_THREADS='1', OPENBLAS_NUM_THREADS='1')
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / 'log.txt', 'a', buffering=1) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            try:
                lighten()
                threadpool_limits(1)  # of what is loaded, where the variables come too late
                if torch := sys.modules.get('torch'):
                    torch.set_num_threads(1)
                function(*arguments)
            except BaseException:
                traceback.print_exc()
                log.flush()
                os._exit(1)


def carry_out(
    runs: Sequence[Run],
    train: Callable[[Run], dict],
    jobs: int = 1,
    deadline: float = float('inf'),
    say: Callable[[str], None] = print,
    told: Callable[[dict], str] = lambda record: 'done',
) -> bool:
    """Make the records that are missing, in the order of the runs.

    Each run is a fork of this process, so what is imported and loaded is there, memory is the
    run's own, and a killed run harms no other. Processes that were started by the same command
    share the runs: a folder is one process's at a time.

    Args:
        runs: All of them; those that have a record are not made again.
        train: Gives the record of a run.
        jobs: Runs at a time, with one thread each.
        deadline: Time of ``time.monotonic`` after which no run is started.
        say: Takes the lines of progress.
        told: What a line says of a record.

    Returns:
        Whether all records are there.

    Raises:
        SystemExit: A run failed; the others that were running are finished.
    """
    context = multiprocessing.get_context('fork')
    waiting = [run for run in runs if run.read() is None]
    total, minutes, failed = len(waiting), [], None
    working: dict[Any, tuple[Any, Run]] = {}
    try:
        while waiting or working:
            while len(working) < jobs and not failed and time.monotonic() < deadline:
                ready = (r for r in waiting if all(first.read() for first in r.before.values()))
                if (run := next(ready, None)) is None:
                    break
                waiting.remove(run)
                if run.read() is None:
                    process = context.Process(target=_child, args=(run.folder, make, run, train))
                    process.start()
                    working[process.sentinel] = process, run
            if not working:
                break
            for sentinel in wait(list(working)):
                process, run = working.pop(sentinel)
                process.join()
                record = run.read()
                if process.exitcode:
                    failed = failed or (run, process.exitcode)
                elif record is not None:
                    minutes.append(record['wall_minutes'])
                    left = sum(minutes) / len(minutes) * (len(waiting) + len(working) / 2) / jobs
                    say(
                        f'{total - len(waiting) - len(working)}/{total} {run.title}: '
                        f'{told(record)} ({minutes[-1]:.1f} min); about {left:.0f} min left'
                    )
    finally:
        for process, _ in working.values():
            process.terminate()
    if failed:
        run, code = failed
        end = (run.folder / 'log.txt').read_text()[-1500:]
        sys.exit(f'{end}\n{run.title}: failed with code {code}, see {run.folder / "log.txt"}')
    return all(run.read() is not None for run in runs)
