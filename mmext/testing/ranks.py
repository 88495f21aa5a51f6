"""Trainings in two real processes (gloo), many plugins in one launch.

Each is a ``python -m mmext.testing.rank_worker``; :class:`RankRuns` starts and watches them.
"""

import os
import subprocess
import sys
import time
import traceback
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch.distributed import TCPStore

from mmext.testing.trial import Trial, plain_text

RANKS = 2
#: Seconds for the processes to start, and for each training.
START, EACH = 180, 90


class RankRuns:
    """The two-rank runs of a session: the first question about any of them starts all."""

    def __init__(self, folder: Path) -> None:
        self._folder = Path(folder)
        self._wanted: list[Trial] = []
        self._found: dict[int, list[dict[str, Any]] | str] = {}

    def add(self, trial: Trial) -> None:
        """Take a plugin along in the launch to come."""
        if trial not in self._wanted:
            self._wanted.append(trial)

    def result(self, trial: Trial) -> list[dict[str, Any]] | str:
        """What each rank ended with, or the text of the error.

        A rank's result has ``start`` and ``end``, the parameters that were trained; ``all``, these
        and all buffers but statistics of batch norm, which every rank has of its own; and
        ``resumed``, the same of the resumed run.
        """
        self.add(trial)
        if id(trial) not in self._found:
            self._run([other for other in self._wanted if id(other) not in self._found])
        return self._found[id(trial)]

    def _run(self, trials: list[Trial]) -> None:
        ready = []
        for trial in trials:
            # A config that cannot be made must not take the other plugins' runs along.
            try:
                cfg = trial.config()
                cfg.work_dir += '-ranks'
                text = plain_text(cfg)
            except Exception:
                self._found[id(trial)] = traceback.format_exc(limit=-3)
            else:
                ready.append((trial, text))
        while ready:
            out = self._folder / f'ranks{len(self._found)}-{time.monotonic_ns()}'
            for index, (_, text) in enumerate(ready):
                (out / str(index)).mkdir(parents=True)
                (out / str(index) / 'config.py').write_text(text)
            failure = _launch(out, len(ready))
            for index, (trial, _) in enumerate(list(ready)):
                files = [out / str(index) / f'rank{rank}.pth' for rank in range(RANKS)]
                if not all(file.exists() for file in files):
                    # Its error ended the processes; those behind it get new ones.
                    self._found[id(trial)] = failure or 'the processes ended without a result'
                    ready = ready[index + 1 :]
                    break
                self._found[id(trial)] = [torch.load(file) for file in files]
            else:
                return


def _launch(out: Path, count: int) -> str | None:
    """Run both ranks; the tail of the error output of the one that failed first."""
    # The store lives here and has chosen its port already, so no other process can take it.
    store = TCPStore('127.0.0.1', 0, None, True, timedelta(seconds=START), wait_for_workers=False)
    shared = {
        **os.environ,
        'PYTHONPATH': os.pathsep.join(path or os.getcwd() for path in sys.path),
        'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(store.port), 'WORLD_SIZE': str(RANKS),
        'LOCAL_WORLD_SIZE': str(RANKS), 'TORCHELASTIC_USE_AGENT_STORE': 'True',
        'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': '',
    }  # fmt: skip
    command = [sys.executable, '-m', 'mmext.testing.rank_worker', str(out)]
    logs = [out / f'rank{rank}.log' for rank in range(RANKS)]
    processes = []
    for rank, log in enumerate(logs):
        with open(log, 'wb') as output:
            environment = {**shared, 'RANK': str(rank), 'LOCAL_RANK': str(rank)}
            processes.append(
                subprocess.Popen(command, env=environment, stdout=output, stderr=output)
            )
    deadline = time.monotonic() + START + EACH * count
    try:
        while any(process.poll() is None for process in processes):
            # The other one may wait for the failed one's answer for half an hour.
            if any(process.poll() for process in processes) or time.monotonic() > deadline:
                break
            time.sleep(0.1)
    finally:
        codes = [process.poll() for process in processes]
        for process in processes:
            process.kill()
            process.wait()
    if not any(code is None or code for code in codes):
        return None
    failed = next((rank for rank, code in enumerate(codes) if code), None)
    if failed is None:
        return f'no end after {START + EACH * count} s: a rank waits for the other one'
    return f'rank {failed}: ' + '\n'.join(logs[failed].read_text().splitlines()[-12:])
