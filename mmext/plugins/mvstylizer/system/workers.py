"""Bounded queues in front of the threads that stylise.

A session belongs to one worker, so its keys are stylised in the order in which they came (the
running statistics of a scene need that); sessions are spread over the workers.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any


class DeadlineError(Exception):
    """The time of a job was over before its turn came."""


@dataclass(eq=False)
class Job:
    """Something for a worker.

    Args:
        call (Callable): Runs in the worker's thread.
        deadline (float): Monotonic seconds after which it is not begun; None: no deadline.
    """

    call: Callable[[], Any]
    deadline: float | None = None
    submitted: float = field(default_factory=time.monotonic)
    started: float = 0.0
    future: asyncio.Future = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Workers:
    """Threads, each with its own queue.

    Args:
        count (int): Threads, at least 1.
        capacity (int): Jobs that wait in all queues together.

    Raises:
        ValueError: An argument is below 1.
    """

    def __init__(self, count: int, capacity: int) -> None:
        if count < 1 or capacity < 1:
            raise ValueError(f'count={count} and capacity={capacity} must be at least 1')
        self._capacity = capacity
        self._queues: list[asyncio.Queue[Job]] = [asyncio.Queue() for _ in range(count)]
        self._sessions = [0] * count
        self._pool = ThreadPoolExecutor(count, thread_name_prefix='stylise')
        self._tasks = [asyncio.create_task(self._serve(queue)) for queue in self._queues]
        #: Moving average of a job's seconds; tells when to try again.
        self.seconds = 0.05

    @property
    def waiting(self) -> int:
        """Jobs that wait."""
        return sum(queue.qsize() for queue in self._queues)

    def enter(self) -> int:
        """Worker for a new session: the one with the fewest."""
        worker = min(range(len(self._sessions)), key=self._sessions.__getitem__)
        self._sessions[worker] += 1
        return worker

    def leave(self, worker: int) -> None:
        """A session of this worker ended."""
        self._sessions[worker] -= 1

    def submit(self, worker: int, job: Job, always: bool = False) -> bool:
        """Queue a job; False: there is no place (and not ``always``)."""
        if self.waiting >= self._capacity and not always:
            return False
        self._queues[worker].put_nowait(job)
        return True

    def retry_after(self) -> float:
        """Seconds after which half of the queue should be gone."""
        return max(0.05, self.seconds * self.waiting / len(self._queues) / 2)

    async def drain(self, timeout: float) -> bool:
        """Wait until all queued jobs are done; False: the time was up."""
        done = asyncio.gather(*(queue.join() for queue in self._queues))
        try:
            await asyncio.wait_for(done, timeout)
        except asyncio.TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """Stop; jobs that still wait are cancelled."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for queue in self._queues:
            while not queue.empty():
                queue.get_nowait().future.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _serve(self, queue: asyncio.Queue) -> None:
        loop = asyncio.get_running_loop()
        while True:
            job = await queue.get()
            try:
                job.started = time.monotonic()
                if job.future.cancelled():
                    continue
                if job.deadline is not None and job.started > job.deadline:
                    job.future.set_exception(DeadlineError())
                    continue
                try:
                    result = await loop.run_in_executor(self._pool, job.call)
                except Exception as error:  # handed to whoever waits for the job
                    if not job.future.cancelled():
                        job.future.set_exception(error)
                else:
                    if not job.future.cancelled():
                        job.future.set_result(result)
                self.seconds += 0.2 * (time.monotonic() - job.started - self.seconds)
            finally:
                queue.task_done()
