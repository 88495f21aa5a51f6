"""A small world for the tests: a development CA, tokens, an edge in a thread, pictures."""

import time

import numpy as np
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mmext.plugins.mvstylizer.interfaces import Stylizer
from mmext.plugins.mvstylizer.system import background
from mmext.plugins.mvstylizer.system.authentication import CallSigner, secure_channel
from mmext.plugins.mvstylizer.system.certificates import DevelopmentCA
from mmext.plugins.mvstylizer.system.edge_server import EdgeServer
from mmext.plugins.mvstylizer.system.images import encode
from mmext.plugins.mvstylizer.system.link import METHOD, Credentials
from mmext.plugins.mvstylizer.system.metrics import EdgeMetrics
from mmext.plugins.mvstylizer.system.models import ModelStore
from mmext.plugins.mvstylizer.system.stylizers import VersionedStylizers
from mmext.plugins.mvstylizer.system.tokens import TokenIssuer, TokenVerifier, public_bytes
from mmext.registry import STYLIZERS

MKL = dict(type='mmext.MKLColorTransfer', momentum=0.0)


@STYLIZERS.register_module()
class SlowStylizer(Stylizer):
    """Inverts a frame after a while; the delay can be changed while it runs."""

    delay = 0.0

    def encode_style(self, style):
        return {'mean': style.reshape(-1, 3).mean(0).astype(np.float32)}

    def stylize(self, frame, code, memory=None):
        time.sleep(type(self).delay)
        return 255 - frame


@STYLIZERS.register_module()
class VersionStylizer(Stylizer, torch.nn.Module):
    """Paints a frame in the one shade that its weights hold: shows which version was at work."""

    def __init__(self):
        torch.nn.Module.__init__(self)
        self.register_buffer('shade', torch.zeros(()))

    def encode_style(self, style):
        return {'shade': self.shade.numpy()}

    def stylize(self, frame, code, memory=None):
        return np.full_like(frame, int(code['shade']))


def picture(height=48, width=64, seed=0):
    """A smooth picture with structure."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    waves = [
        127 + 110 * np.sin(rows / rng.uniform(4, 9) + columns / rng.uniform(4, 9) + phase)
        for phase in rng.uniform(0, 6, 3)
    ]
    return np.stack(waves, -1).clip(0, 255).astype(np.uint8)


class Loop:
    """The process's loop of connections."""

    def __init__(self):
        self.loop = background.loop()

    def run(self, coroutine, timeout=60):
        return background.run(coroutine, timeout)


class World:
    """What a test needs of cloud and certificates, and edges that run in one loop."""

    def __init__(self, folder):
        self.folder = folder
        self.ca = DevelopmentCA(folder / 'ca')
        self.issuer_key = Ed25519PrivateKey.generate()
        self.issuer = TokenIssuer(self.issuer_key)
        self.tokens = TokenVerifier(public_bytes(self.issuer_key))
        self.loop = Loop()
        self.edges = []

    def credentials(self, device='phone', role='phone', lifetime_s=600.0):
        key = Ed25519PrivateKey.generate()
        token = self.issuer.issue(device, role, public_bytes(key), lifetime_s)
        return Credentials(self.ca.certificate.read_bytes(), token, key)

    def edge(self, name='edge0', stylizer=MKL, limits=None, port=0, models=None, **options):
        store = models or ModelStore(self.folder / name / 'models')
        server = EdgeServer(
            name,
            self.ca.issue(name, [name]),
            self.tokens,
            VersionedStylizers(stylizer, store),
            limits,
            EdgeMetrics(),
            **options,
        )
        server.models = store
        server.port = self.loop.run(server.start(f'127.0.0.1:{port}'))
        server.address = f'127.0.0.1:{server.port}'
        self.edges.append(server)
        return server

    def stop(self, server):
        self.edges.remove(server)
        self.loop.run(server.stop())

    def close(self):
        for server in list(self.edges):
            self.stop(server)

    def signer(self, server='edge0', credentials=None):
        credentials = credentials or self.credentials()
        return CallSigner(server, lambda: credentials.token, credentials.key)

    def channel(self, edge, name=None):
        name = name or edge.name
        return secure_channel(edge.address, name, self.ca.certificate.read_bytes())

    def metadata(self, name='edge0', credentials=None):
        return self.signer(name, credentials).metadata(METHOD)


def style_bytes(seed=9):
    return encode(picture(40, 40, seed), None)
