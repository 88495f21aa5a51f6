"""Flower's messages over the cloud's own connections.

Flower's engine would open ports of its own, run two more processes on every machine and have edges
execute code that the cloud sends. Here edges ask the cloud for work over the connection that they
have anyway, with their tokens, and run only what is installed on them.
"""

import asyncio
import hashlib
import threading
import time
from collections.abc import Iterable

from flwr.app import Message, RecordDict
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.serverapp import Grid

from . import logs


def pack(message: Message) -> bytes:
    """Message as bytes."""
    return message_to_proto(message).SerializeToString()


def unpack(data: bytes) -> Message:
    """Inverse of :func:`pack`.

    Raises:
        ValueError: The bytes are no message.
    """
    try:
        return message_from_proto(ProtoMessage.FromString(data))
    except Exception as error:  # protobuf and Flower raise whatever their parsers raise
        raise ValueError('the bytes are no message of Flower') from error


def node_of(edge: str) -> int:
    """Flower's number of an edge: 63 bits of a hash of its name."""
    return int.from_bytes(hashlib.sha256(edge.encode()).digest()[:8], 'little') >> 1


class MailGrid(Grid):
    """A Flower grid whose nodes fetch their messages; thread-safe.

    The strategy uses it in a thread; the cloud's handlers call :meth:`fetch` and :meth:`deliver`.

    Args:
        present_s (float): An edge counts as there for so long after it last asked. Default 60.
    """

    def __init__(self, present_s: float = 60) -> None:
        self._present_s = present_s
        self._seen: dict[str, float] = {}
        self._out: dict[int, list[Message]] = {}
        self._open: dict[str, int] = {}
        self._replies: dict[str, Message] = {}
        self._news = threading.Condition()
        self._run = None

    def fetch(self, edge: str) -> Message | None:
        """Next message for an edge; None: nothing to do.

        An edge asks when it has nothing to do, so one that asks again has lost its message, by a
        restart or with the connection, and gets it once more.
        """
        with self._news:
            self._seen[edge] = time.monotonic()
            waiting = self._out.get(node_of(edge), [])
            return waiting[0] if waiting else None

    async def wait(self, edge: str, seconds: float) -> Message | None:
        """As :meth:`fetch`, but wait for a message for some seconds."""
        until = time.monotonic() + seconds
        while (message := self.fetch(edge)) is None and time.monotonic() < until:
            await asyncio.sleep(0.1)
        return message

    def deliver(self, edge: str, reply: Message) -> bool:
        """Take a reply of an edge; False: nobody waits for it, or it is another's."""
        with self._news:
            number = reply.metadata.reply_to_message_id
            if self._open.get(number) != node_of(edge):
                return False
            self._forget({number})
            # The name in the message is not believed, the token's is.
            reply.metadata.__dict__['_src_node_id'] = node_of(edge)
            self._replies[number] = reply
            self._news.notify_all()
            return True

    def name_of(self, node: int) -> str:
        """Name of an edge that has asked for work."""
        with self._news:
            return next((edge for edge in self._seen if node_of(edge) == node), str(node))

    def set_run(self, run) -> None:
        """Take note of Flower's run."""
        self._run = run

    @property
    def run(self):
        """Flower's run, if there is one."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """A message to an edge."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Edges that have asked for work lately."""
        oldest = time.monotonic() - self._present_s
        with self._news:
            return [node_of(edge) for edge, at in self._seen.items() if at > oldest]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Lay messages out for their edges; return their numbers."""
        numbers = []
        with self._news:
            for message in messages:
                number = f'{time.time_ns()}-{len(self._open)}'
                message.metadata.__dict__['_message_id'] = number
                self._out.setdefault(message.metadata.dst_node_id, []).append(message)
                self._open[number] = message.metadata.dst_node_id
                numbers.append(number)
        return numbers

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies that have come."""
        with self._news:
            found = [number for number in message_ids if number in self._replies]
            return [self._replies.pop(number) for number in found]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send, wait for all replies or the time to be up; forget what did not come."""
        numbers = set(self.push_messages(messages))
        until = None if timeout is None else time.monotonic() + timeout
        replies: list[Message] = []
        while numbers:
            for reply in self.pull_messages(list(numbers)):
                replies.append(reply)
                numbers.discard(reply.metadata.reply_to_message_id)
            left = None if until is None else until - time.monotonic()
            if not numbers or (left is not None and left <= 0):
                break
            with self._news:
                if not any(number in self._replies for number in numbers):
                    self._news.wait(left)
        with self._news:
            # An edge that comes late finds no work of a round that is over.
            self._forget(numbers)
        if numbers:
            logs.event('edges did not answer', count=len(numbers))
        return replies

    def _forget(self, numbers: set[str]) -> None:
        """Take messages back; the caller holds the lock."""
        for number in numbers:
            self._open.pop(number, None)
        for node, waiting in self._out.items():
            self._out[node] = [m for m in waiting if m.metadata.message_id not in numbers]
