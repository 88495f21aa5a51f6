"""A cloud with edges in the test world, and what they train on."""

import time

import pytest
import torch
from mvst_world import World, picture

pytest.importorskip('flwr')

from flwr.clientapp import ClientApp  # noqa: E402

from mmext.plugins.mvstylizer.system.cloud_link import CloudLink  # noqa: E402
from mmext.plugins.mvstylizer.system.cloud_server import CloudServer  # noqa: E402
from mmext.plugins.mvstylizer.system.collection import Collection  # noqa: E402
from mmext.plugins.mvstylizer.system.federation import Federation  # noqa: E402
from mmext.plugins.mvstylizer.system.link import Target  # noqa: E402
from mmext.plugins.mvstylizer.system.local_training import TrainOptions, build_trainable  # noqa: E402
from mmext.plugins.mvstylizer.system.metrics import EdgeMetrics  # noqa: E402
from mmext.plugins.mvstylizer.system.models import ModelStore  # noqa: E402
from mmext.plugins.mvstylizer.system.tokens import TokenVerifier, public_bytes  # noqa: E402

SMALL = dict(type='mmext.NeuralColorMapping', weights=None, width=4, thumbnail=32)
TRAIN = TrainOptions(iterations=2, batch_size=2, side=32, min_frames=2)


def start():
    """Weights of version 0, the same in every process."""
    torch.manual_seed(5)
    return build_trainable(SMALL).state_dict()


def frames(folder, count, seed):
    kept = Collection(folder)
    for index in range(count):
        kept.add('phone', picture(40, 48, seed + index))
    return kept


class Cloudy(World):
    """A world with a cloud."""

    def __init__(self, folder):
        super().__init__(folder)
        self.cloud = None
        self.links = []

    def up(self, evaluate=lambda state: 1.0, port=0, **options):
        models = ModelStore(self.folder / 'cloud' / 'models')
        federation = Federation(models, self.folder / 'cloud', start, evaluate, **options)
        self.cloud = CloudServer(
            'cloud', self.ca.issue('cloud', ['cloud']), self.issuer, self.tokens, federation,
            self.folder / 'cloud', poll_s=1,
        )  # fmt: skip
        self.cloud.port = self.loop.run(self.cloud.start(f'127.0.0.1:{port}'))
        return self.cloud

    def target(self):
        return Target('cloud', f'127.0.0.1:{self.cloud.port}')

    def link(self, name, app, **options):
        models = ModelStore(self.folder / name / 'models')
        link = CloudLink(
            self.target(), self.credentials(name, 'edge'), name, models,
            TokenVerifier(public_bytes(self.issuer_key)), app, EdgeMetrics(), every_s=0.1,
            **options,
        )  # fmt: skip
        link.models, link.metrics = models, link._metrics
        self.loop.run(link.start())
        self.links.append(link)
        return link

    def down(self, grace_s=0.0):
        self.loop.run(self.cloud.stop(grace_s))
        self.cloud = None

    def close(self):
        for link in self.links:
            self.loop.run(link.stop())
        if self.cloud is not None:
            self.down()
        super().close()


def until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, 'waited too long'
        time.sleep(0.02)


def adder(value, examples=4):
    """An edge that "trains" by adding a number to all weights."""
    app = ClientApp()

    @app.train()
    def run(message, context):
        from mmext.plugins.mvstylizer.system.aggregation import floating
        from mmext.plugins.mvstylizer.system.flower_strategy import ARRAYS, make_reply

        base = floating(message.content[ARRAYS].to_torch_state_dict())
        return make_reply(
            message, {n: torch.full_like(v, value) for n, v in base.items()}, examples
        )

    return app
