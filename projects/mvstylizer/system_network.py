"""The same clip over a real rate-limited link: phone and servers in network namespaces."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / 'projects'))

import links  # noqa: E402
from system_deployment import MODULE, Deployment  # noqa: E402

RATES = ('1mbit', '5mbit', '20mbit', '50mbit')


def missing() -> str:
    """Why namespaces cannot be used here; empty if they can."""
    return links.missing()


def shaped(
    folder: Path,
    clip: Path,
    make_style: Callable[[Path], Path],
    rate: str,
    play: dict,
    stylizer: dict,
    frames: int | None = None,
) -> tuple[dict, Path]:
    """Report of the phone and its output over a link of a rate (``tc tbf`` in both directions)."""
    with links.namespaces(2, rate) as (phone_side, server_side):
        deployment = Deployment(
            folder, edges=1, stylizer=stylizer, rounds={'min_edges': 99}, host='10.77.0.2',
            prefix=('ip', 'netns', 'exec', server_side),
        )  # fmt: skip
        output = folder / 'out.mp4'
        try:
            deployment.phone(play=play)
            deployment.up()
            command = [
                'ip', 'netns', 'exec', phone_side, sys.executable, '-m', f'{MODULE}.phone',
                '--config', str(deployment.path('phone')), str(clip),
                str(make_style(folder)), str(output),
                *(['--max-frames', str(frames)] if frames else []),
            ]  # fmt: skip
            done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=500)
        finally:
            deployment.down()
    return json.loads(done.stdout), output
