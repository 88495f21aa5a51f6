"""Cases of the study that are more than a clip: a crowd, a killed cloud, a real link."""

import json
import statistics
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import links
from evidence import summary
from system_deployment import MODULE, Deployment, until

from mmext.datasets.photos import photo
from mmext.plugins.mvstylizer.command import read_image
from mmext.plugins.mvstylizer.system import link
from mmext.plugins.mvstylizer.system.collection import Collection
from mmext.plugins.mvstylizer.system.federation import read_rounds
from mmext.plugins.mvstylizer.system.images import encode
from mmext.plugins.mvstylizer.system.player import shrink

#: Keys that each phone of a crowd sends.
KEYS = 6


def crowd(deployment: Deployment, phones: int) -> tuple[dict, bool]:
    """All phones open sessions on the first edge and send keys at once.

    Returns:
        Row with the shares of keys that were stylised and not, and round trips; whether the edge
        has answered all keys that it had accepted.
    """
    name = deployment.names[0]
    before = keys_of(deployment, name)
    target = link.Target(name, f'{deployment.host}:{deployment.ports[name]}')
    picture = encode(shrink(read_image(deployment.style), 128))
    image = encode(shrink(photo('rocket'), 160))
    replies: list[link.Reply] = []
    lock, all_in = threading.Lock(), threading.Event()

    def on_reply(reply: link.Reply) -> None:
        with lock:
            replies.append(reply)
            if len(replies) == phones * KEYS:
                all_in.set()

    opened = []
    with ExitStack() as stack:
        for number in range(phones):
            key, token = deployment.token(f'crowd{number}', 'phone')
            credentials = link.Credentials(deployment.ca.read_bytes(), token, key)
            options = link.LinkOptions(connect_s=60, stall_s=120)
            opened.append(link.EdgeLink([target], credentials, picture, on_reply, options=options))
        for phone in opened:
            stack.enter_context(phone)
        expires = time.monotonic() + 120
        for sequence in range(KEYS):
            for phone in opened:
                phone.offer(link.Key(sequence, image, sequence == 0, expires))
        all_in.wait(150)
    trips = sorted(trip for phone in opened for trip in phone.round_trips)
    after = keys_of(deployment, name)
    accepted, answered = (round(after[kind] - before[kind]) for kind in after)
    total = phones * KEYS
    styled = sum(reply.frame is not None for reply in replies) / total
    metrics = {
        'stylised': styled,
        'not stylised': 1 - styled,
        'round trip p50 ms': 1000 * statistics.median(trips),
        'round trip p95 ms': 1000 * trips[int(0.95 * (len(trips) - 1))],
    }
    setting = f'{total} keys in one burst; accepted {accepted}, answered {answered}'
    told = {key: summary([value]) for key, value in metrics.items()}
    return {'setting': setting, 'metrics': told}, accepted == answered > 0


def keys_of(deployment: Deployment, name: str) -> dict[str, float]:
    """Keys that an edge has accepted and answered so far."""
    counters = deployment.counters(name)
    return {
        kind: sum(n for key, n in counters.items() if key.startswith(f'keys_{kind}_total'))
        for kind in ('accepted', 'answered')
    }


def killed_cloud(folder: Path) -> tuple[dict, bool]:
    """Kill the cloud in the middle of a federated round, start it again, wait for the round.

    Returns:
        Row; whether that round is the first, with the updates of both edges.
    """
    deployment = Deployment(
        folder, rounds={'every_s': 5}, training={'iterations': 8, 'min_frames': 4}
    )
    for name, picture in zip(deployment.names, ('astronaut', 'chelsea'), strict=True):
        kept = Collection(folder / name / 'frames')
        for index in range(6):
            kept.add('phone', shrink(photo(picture)[10 * index :, 12 * index :], 240))
    done = folder / 'cloud' / 'rounds.jsonl'
    try:
        deployment.up()
        until(lambda: '"round begins"' in deployment.log('cloud'), 900)
        began = time.monotonic()
        # Long enough for the edges to have fetched their work.
        time.sleep(1.5)
        early = read_rounds(done)
        deployment.kill('cloud')
        killed_after = time.monotonic() - began
        deployment.start('cloud')
        restarted = time.monotonic()
        first = until(lambda: read_rounds(done), 900)[0]
        seconds = time.monotonic() - restarted
    finally:
        deployment.down()
    row = {
        'setting': f'killed {killed_after:.1f} s into round 1; after the restart round '
        f'{first.number}: {first.outcome}, {len(first.taken)} edges',
        'metrics': {'restart to end of round s': summary([seconds])},
    }
    return row, not early and first.number == 1 and len(first.taken) == 2


def shaped(folder: Path, clip: Path, rate: str, play: dict) -> tuple[dict, Path]:
    """Report of a phone and its output over a link of a rate, phone and servers in namespaces."""
    with links.namespaces(2, rate) as (phone_side, server_side):
        enter = ('ip', 'netns', 'exec')
        deployment = Deployment(
            folder, edges=1, rounds={'min_edges': 99}, host='10.77.0.2',
            prefix=(*enter, server_side),
        )  # fmt: skip
        output = folder / 'out.mp4'
        try:
            settings = deployment.phone(play=play)
            deployment.up()
            command = [
                *enter, phone_side, sys.executable, '-m', f'{MODULE}.phone',
                '--config', settings, clip, deployment.style, output,
            ]  # fmt: skip
            done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=500)
        finally:
            deployment.down()
    return json.loads(done.stdout), output
