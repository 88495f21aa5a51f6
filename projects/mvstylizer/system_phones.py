"""Many phones at once on one edge."""

import statistics
import threading
import time
import urllib.request
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from system_deployment import Deployment

from mmext.datasets.photos import photo
from mmext.plugins.mvstylizer.command import read_image
from mmext.plugins.mvstylizer.system import cloud_main
from mmext.plugins.mvstylizer.system.config import CloudConfig, load
from mmext.plugins.mvstylizer.system.images import encode
from mmext.plugins.mvstylizer.system.link import (
    Credentials,
    EdgeLink,
    Key,
    LinkOptions,
    Reply,
    Target,
)
from mmext.plugins.mvstylizer.system.player import shrink
from mmext.plugins.mvstylizer.system.tokens import TokenIssuer, public_bytes


def crowd(deployment: Deployment, style: Path, phones: int, keys: int = 6) -> dict:
    """All phones open sessions on the first edge and send keys at once.

    Returns:
        ``phones``, ``keys`` sent, ``accepted`` and ``answered`` as the edge counts them, and
        ``metrics``: shares of keys that were stylised and refused, round trips in ms.
    """
    name = deployment.names[0]
    before = edge_counts(deployment, name)
    issuer = TokenIssuer(cloud_main.issuer_key(load(deployment.path('cloud'), CloudConfig).state))
    target = Target(name, f'{deployment.host}:{deployment.ports[name]}')
    picture = encode(shrink(read_image(style), 128))
    image = encode(shrink(photo('rocket'), 160))
    replies: list[Reply] = []
    lock, all_in = threading.Lock(), threading.Event()

    def on_reply(reply: Reply) -> None:
        with lock:
            replies.append(reply)
            if len(replies) == phones * keys:
                all_in.set()

    links = []
    for number in range(phones):
        key = Ed25519PrivateKey.generate()
        token = issuer.issue(f'crowd{number}', 'phone', public_bytes(key), 600)
        credentials = Credentials(deployment.ca.read_bytes(), token, key)
        options = LinkOptions(connect_s=60, stall_s=120)
        links.append(EdgeLink([target], credentials, picture, on_reply, options=options))
    for link in links:
        link.__enter__()
    expires = time.monotonic() + 120
    for sequence in range(keys):
        for link in links:
            link.offer(Key(sequence, image, sequence == 0, expires))
    all_in.wait(150)
    for link in links:
        link.__exit__(None, None, None)
    trips = sorted(trip for link in links for trip in link.round_trips)
    after = edge_counts(deployment, name)
    styled = sum(reply.frame is not None for reply in replies)
    total = phones * keys
    return {
        'phones': phones,
        'keys': total,
        'accepted': round(after['accepted'] - before['accepted']),
        'answered': round(after['answered'] - before['answered']),
        'metrics': {
            'stylised': styled / total,
            'not stylised': (total - styled) / total,
            'round trip p50 ms': 1000 * statistics.median(trips),
            'round trip p95 ms': 1000 * trips[int(0.95 * (len(trips) - 1))],
        },
    }


def edge_counts(deployment: Deployment, name: str) -> dict[str, float]:
    """Keys accepted and answered so far."""
    address = f'http://127.0.0.1:{deployment.metrics[name]}/metrics'
    with urllib.request.urlopen(address, timeout=30) as reply:
        lines = reply.read().decode().splitlines()
    totals = {'accepted': 0.0, 'answered': 0.0}
    for line in lines:
        for kind in totals:
            if line.startswith(f'mvst_keys_{kind}_total'):
                totals[kind] += float(line.rsplit(' ', 1)[1])
    return totals
