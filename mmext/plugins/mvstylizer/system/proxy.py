"""A TCP proxy that worsens a connection: rate, delay, stalls, resets, refusals.

Runs anywhere without privileges. What a phone sees of packet loss is TCP's repair of it, a stall;
so the proxy stalls instead of dropping.
"""

import asyncio
import contextlib
import random
import socket
import struct
import threading
import time
from dataclasses import dataclass

_CHUNK = 16 << 10


@dataclass
class Faults:
    """How bad the connection is now; may be changed while connections run.

    Args:
        delay_s (float): One way, seconds.
        rate_bps (float): Bits per second in each direction; None: unlimited.
        stall_probability (float): Of each chunk of at most 16 KiB.
        stall_s (float): Length of a stall: TCP's first retransmission timeout is 0.2 to 1 s.
        frozen (bool): Nothing passes; connections stay open.
        down (bool): New connections are closed at once.
    """

    delay_s: float = 0
    rate_bps: float | None = None
    stall_probability: float = 0
    stall_s: float = 0.3
    frozen: bool = False
    down: bool = False


class FaultProxy:
    """Forwards connections to a target, in a thread of its own.

    Args:
        host (str): Of the target.
        port (int): Of the target; may be changed later by :attr:`target`.
        faults (Faults): Default: none.
        seed (int): Of the stalls.

    Example:
        >>> with FaultProxy('127.0.0.1', port, Faults(delay_s=0.15)) as proxy:
        ...     connect(f'127.0.0.1:{proxy.port}')
    """

    def __init__(self, host: str, port: int, faults: Faults | None = None, seed: int = 0) -> None:
        self.target = (host, port)
        self.faults = faults or Faults()
        #: Bytes passed to the target and back.
        self.up = self.down = 0
        #: Connections taken so far.
        self.connections = 0
        self._random = random.Random(seed)
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name='proxy', daemon=True)
        self.port = 0

    def __enter__(self) -> 'FaultProxy':
        self._thread.start()
        server = self._call(asyncio.start_server(self._serve, '127.0.0.1', 0))
        self._server = server
        self.port = server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def reset(self) -> int:
        """Reset all connections (RST, not FIN); return how many."""

        async def reset() -> int:
            writers = list(self._writers)
            for writer in writers:
                _abort(writer)
            return len(writers) // 2

        return self._call(reset())

    def _call(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    async def _close(self) -> None:
        self._server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self.faults.down:
            _abort(writer)
            return
        try:
            far_reader, far_writer = await asyncio.open_connection(*self.target)
        except OSError:
            _abort(writer)
            return
        self._writers |= {writer, far_writer}
        try:
            await asyncio.gather(
                self._pass(reader, far_writer, up=True), self._pass(far_reader, writer, up=False)
            )
        except (OSError, asyncio.CancelledError):
            # The end of either side, or of the proxy, ends the connection.
            pass
        finally:
            self._writers -= {writer, far_writer}
            _abort(writer)
            _abort(far_writer)

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool
    ) -> None:
        """Forward one direction until its end; the reader runs ahead of the delay line."""
        line: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(256)

        async def fill() -> None:
            while True:
                data = await reader.read(_CHUNK)
                await line.put((time.monotonic() + self.faults.delay_s, data))
                if not data:
                    return

        filling = asyncio.create_task(fill())
        free = 0.0
        try:
            while True:
                due, data = await line.get()
                if not data:
                    # Wakes the other direction with an end, too.
                    raise ConnectionResetError
                if self._random.random() < self.faults.stall_probability:
                    due += self.faults.stall_s
                if self.faults.rate_bps:
                    free = max(free, time.monotonic()) + 8 * len(data) / self.faults.rate_bps
                    due = max(due, free)
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                while self.faults.frozen:
                    await asyncio.sleep(0.01)
                # Before anybody can have them: who has read all sees all counted.
                if up:
                    self.up += len(data)
                else:
                    self.down += len(data)
                writer.write(data)
                await writer.drain()
        finally:
            filling.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await filling


def _abort(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info('socket')
    if sock is not None:
        with contextlib.suppress(OSError):
            # Linger of 0 s: close sends RST.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    writer.transport.abort()
