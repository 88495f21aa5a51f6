"""One event loop in a thread for all connections of a process.

gRPC's asyncio side has one poller for the process and does not get over the end of a loop that it
served, so this one lives as long as the process.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from typing import Any

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None


def loop() -> asyncio.AbstractEventLoop:
    """The loop; started at the first call."""
    global _loop
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name='connections', daemon=True).start()
        return _loop


def run(coroutine: Coroutine[Any, Any, Any], timeout: float | None = None) -> Any:
    """Run a coroutine in the loop and wait for its result; not to be called from the loop.

    Raises:
        TimeoutError: The time was up; the coroutine is cancelled.
    """
    future = asyncio.run_coroutine_threadsafe(coroutine, loop())
    try:
        return future.result(timeout)
    except TimeoutError:
        future.cancel()
        raise


async def in_daemon(call: Callable[..., Any], *args: Any) -> Any:
    """As ``asyncio.to_thread``, but the process may end while the call still runs.

    For trainings of minutes: asyncio waits for the threads of its own executor before it ends.
    """
    running = asyncio.get_running_loop()
    future: asyncio.Future[Any] = running.create_future()

    def settle(error: BaseException | None, result: Any) -> None:
        if future.cancelled():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    def work() -> None:
        error, result = None, None
        try:
            result = call(*args)
        except Exception as raised:
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop has ended, nobody waits
            running.call_soon_threadsafe(settle, error, result)

    threading.Thread(target=work, name='training', daemon=True).start()
    return await future
