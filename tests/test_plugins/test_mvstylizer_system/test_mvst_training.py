"""Training on an edge, and the frames that it trains on."""

import dataclasses
import logging

import pytest
import torch
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from mmengine.visualization import Visualizer
from mvst_cloud import SMALL, TRAIN, frames, start
from mvst_world import picture

from mmext.plugins.mvstylizer.system import local_training
from mmext.plugins.mvstylizer.system import mvstylizer_pb2 as pb
from mmext.plugins.mvstylizer.system import mvstylizer_pb2_grpc as rpc
from mmext.plugins.mvstylizer.system.collection import Collection
from mmext.plugins.mvstylizer.system.local_training import held_out_loss, train


def test_training_is_a_function_of_weights_frames_and_round(tmp_path):
    paths = frames(tmp_path, 3, 0).paths()
    base = start()
    first, second = (train(SMALL, base, paths, TRAIN, number=1) for _ in range(2))
    other = train(SMALL, base, paths, TRAIN, number=2)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    score = held_out_loss(SMALL, base, paths, side=32, crops=4)
    assert score == held_out_loss(SMALL, base, paths, side=32, crops=4) > 0


def test_training_leaves_nothing_behind(tmp_path, monkeypatch):
    """No log file stays open, no hub and no frame in memory, also after an error."""
    paths = frames(tmp_path, 3, 0).paths()
    local_training._read.cache_clear()
    managers = (MMLogger, MessageHub, Visualizer, DefaultScope)
    before = [list(manager._instance_dict) for manager in managers]
    opened = []
    real = local_training.Runner.train

    def watched(runner):
        opened.extend(h for h in runner.logger.handlers if isinstance(h, logging.FileHandler))
        real(runner)
        assert local_training._read.cache_info().currsize == 3
        if len(opened) == 2:
            raise RuntimeError('out of memory')

    monkeypatch.setattr(local_training.Runner, 'train', watched)
    train(SMALL, start(), paths, dataclasses.replace(TRAIN, iterations=8))
    with pytest.raises(RuntimeError, match='out of memory'):
        train(SMALL, start(), paths, dataclasses.replace(TRAIN, iterations=8))
    assert len(opened) == 2 and all(handler.stream is None for handler in opened)
    assert [list(manager._instance_dict) for manager in managers] == before
    assert local_training._read.cache_info().currsize == 0


def test_collected_frames_need_consent_expire_and_can_be_deleted(world, tmp_path):
    import test_mvst_edge as talk

    now = [1000.0]
    kept = Collection(tmp_path / 'frames', ttl_s=60, per_device=3, clock=lambda: now[0])
    edge = world.edge(collection=kept)
    phones = [world.credentials(f'phone{i}') for i in range(2)]

    def send(phone, consent, count=2):
        metadata = world.metadata(credentials=phone)
        messages = [talk.opening(consent=consent), *(talk.key(i) for i in range(count))]
        world.loop.run(talk.talk(world, edge, messages, metadata))

    send(phones[0], False)
    assert kept.paths() == []
    send(phones[0], True)
    assert len(kept.paths()) == 2
    now[0] += 40
    send(phones[1], True, 5)
    assert len(kept.paths()) == 5
    assert 'phone' not in ''.join(path.parent.name for path in kept.paths())

    async def delete(phone):
        async with world.channel(edge) as channel:
            signed = world.signer(credentials=phone).metadata(
                '/mmext.mvstylizer.v1.Edge/DeleteCollected'
            )
            stub = rpc.EdgeStub(channel)
            return (
                await stub.DeleteCollected(pb.DeleteCollectedRequest(), metadata=signed)
            ).deleted

    now[0] += 25
    assert len(kept.paths()) == 3 and kept.expire() == 2
    assert world.loop.run(delete(phones[1])) == 3 and kept.paths() == []


def test_what_a_crash_left_half_written_is_deleted_too(tmp_path):
    kept = Collection(tmp_path)
    kept.add('phone', picture())
    (folder,) = tmp_path.iterdir()
    half = folder / '000000001000000-0123456789abcdef.jpg.7.9.tmp'
    half.write_bytes(b'pixels')
    assert kept.delete('phone') == 1 and not folder.exists()
    assert kept.delete('phone') == 0
    kept.add('phone', picture())
    half.write_bytes(b'pixels')
    assert len(Collection(tmp_path).paths()) == 1 and not half.exists()
