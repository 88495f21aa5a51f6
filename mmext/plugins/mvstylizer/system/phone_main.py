"""Run a phone from its TOML file: a video in, a stylised video and a report out."""

import asyncio
import statistics
import time
from itertools import islice
from pathlib import Path

import grpc

from mmext.registry import KEYFRAME_POLICIES, PROPAGATIONS, UPSCALERS

from ..command import read_image
from ..video import VideoReader, VideoWriter
from . import background, device, logs
from . import mvstylizer_pb2 as pb
from . import mvstylizer_pb2_grpc as rpc
from .authentication import CallSigner, secure_channel
from .config import PhoneConfig, load
from .images import encode
from .link import EdgeLink
from .player import Player, Way, shrink

#: Longest side of the style picture that is sent.
STYLE_SIDE = 512


def enroll(path: Path, code: str) -> None:
    """Trade a one-time code for this phone's token."""
    config = load(path, PhoneConfig)
    device.join(config.state, config.ca, config.cloud, code)


def delete_collected(path: Path) -> dict[str, int | str]:
    """Have all edges delete what they keep of this phone; return counts by edge."""
    config = load(path, PhoneConfig)
    credentials = device.credentials(config.state, config.ca)
    method = '/mmext.mvstylizer.v1.Edge/DeleteCollected'

    async def ask(target) -> int | str:
        signer = CallSigner(target.name, lambda: credentials.token, credentials.key)
        async with secure_channel(target.address, target.name, credentials.ca) as channel:
            try:
                reply = await rpc.EdgeStub(channel).DeleteCollected(
                    pb.DeleteCollectedRequest(), metadata=signer.metadata(method), timeout=20
                )
            except grpc.aio.AioRpcError as error:
                return error.code().name.lower()
            return reply.deleted

    return {target.name: background.run(ask(target), 60) for target in config.edges}


def stylize_file(
    path: Path, video: Path, style: Path, output: Path, max_frames: int | None = None
) -> dict:
    """Stylise a video through the edges.

    Args:
        path (Path): TOML file of the phone.
        video (Path): Any container that FFmpeg reads.
        style (Path): Style picture.
        output (Path): Appears when it is complete, with the frames' times and the sound; not
            ``video`` itself.
        max_frames (int): End after so many frames; None: all.

    Returns:
        dict: ``frames``, ``ways`` (frames by the way they were made), ``latency_ms`` and
        ``round_trip_ms`` (p50, p95), ``behind_ms`` (of real time, by the phone's own work),
        ``bytes`` (up, down), ``faults``, ``seconds``.
    """
    config = load(path, PhoneConfig)
    logs.start('phone', config.log_level)
    credentials = device.credentials(config.state, config.ca)
    player = Player(
        KEYFRAME_POLICIES.build(dict(config.policy)),
        PROPAGATIONS.build(dict(config.between)),
        PROPAGATIONS.build(dict(config.causal)),
        UPSCALERS.build(dict(config.upscaler)),
        config.play,
    )
    picture = encode(shrink(read_image(style), STYLE_SIDE), config.play.quality)
    link = EdgeLink(
        config.edges, credentials, picture, player.on_reply, config.consent, config.link
    )
    latencies = []
    began = time.perf_counter()
    renewing = asyncio.run_coroutine_threadsafe(
        device.keep_token(config.cloud, link, config.state), background.loop()
    )
    try:
        with VideoReader(video) as reader, VideoWriter(output, reader.size, reader) as writer, link:
            source = ((frame.image, frame.pts) for frame in reader.frames(writer.sound))
            for made in player.play(islice(source, max_frames), link, float(reader.rate)):
                writer.write(made.frame, made.tag)
                latencies.append(made.latency)
            writer.finish()
    finally:
        renewing.cancel()
    return {
        'frames': len(latencies),
        'ways': {way.value: player.ways[way.value] for way in Way},
        'latency_ms': quantiles(latencies),
        'round_trip_ms': quantiles(link.round_trips),
        'behind_ms': round(1000 * player.behind, 1),
        'bytes': {'up': link.up, 'down': link.down},
        'faults': faults(link),
        'seconds': round(time.perf_counter() - began, 3),
    }


def faults(link: EdgeLink) -> dict[str, int]:
    """What went wrong on a link and was got over."""
    fine = ('sessions', 'sent', 'styled', 'closed')
    return {name: count for name, count in link.counts.items() if name not in fine and count}


def quantiles(seconds: list[float]) -> dict[str, float | None]:
    """Median and 95th percentile in milliseconds."""
    if len(seconds) < 2:
        single = round(1000 * seconds[0], 1) if seconds else None
        return {'p50': single, 'p95': single}
    cuts = statistics.quantiles(seconds, n=20, method='inclusive')
    return {'p50': round(1000 * cuts[9], 1), 'p95': round(1000 * cuts[18], 1)}
