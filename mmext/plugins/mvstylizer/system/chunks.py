"""Something large in pieces, checked as a whole."""

import hashlib
from collections.abc import AsyncIterable, Iterator

from . import mvstylizer_pb2 as pb

SIZE = 256 << 10
#: Bytes of a model or a message of Flower at most.
LIMIT = 64 << 20


def split(data: bytes) -> Iterator[pb.Chunk]:
    """Pieces of at most 256 KiB; the first tells the SHA-256 of all."""
    digest = hashlib.sha256(data).hexdigest()
    for start in range(0, max(len(data), 1), SIZE):
        yield pb.Chunk(data=data[start : start + SIZE], sha256='' if start else digest)


async def join(chunks: AsyncIterable, limit: int) -> bytes | None:
    """The whole; None where there is no piece.

    Args:
        chunks (AsyncIterable): Of :func:`split`, sent over a network.
        limit (int): Bytes taken at most.

    Raises:
        ValueError: It is longer, or not what was sent.
    """
    parts: list[bytes] = []
    digest, total = '', 0
    async for chunk in chunks:
        if not parts:
            digest = chunk.sha256
        total += len(chunk.data)
        if total > limit:
            raise ValueError(f'more than {limit} bytes')
        parts.append(chunk.data)
    if not parts:
        return None
    data = b''.join(parts)
    if hashlib.sha256(data).hexdigest() != digest:
        raise ValueError('the data is not what was sent: its SHA-256 differs')
    return data
