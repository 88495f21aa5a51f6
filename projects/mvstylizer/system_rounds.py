"""A cloud that is killed in the middle of a federated round, with real processes."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from system_deployment import Deployment

from mmext.datasets.photos import photo
from mmext.plugins.mvstylizer.system.collection import Collection
from mmext.plugins.mvstylizer.system.federation import read_rounds
from mmext.plugins.mvstylizer.system.player import shrink


def killed_cloud(folder: Path, stylizer: Mapping[str, Any]) -> dict:
    """Kill the cloud after a round has begun, start it again, wait for the round.

    Returns:
        ``killed_after`` (seconds from the round's beginning to the kill), ``rounds`` that were over
        before the kill, ``seconds`` from the restart to the end of the round, and that ``round``.
    """
    deployment = Deployment(
        folder,
        stylizer=stylizer,
        rounds={'every_s': 5},
        training={'iterations': 8, 'min_frames': 4},
    )
    for name, picture in zip(deployment.names, ('astronaut', 'chelsea'), strict=True):
        kept = Collection(folder / name / 'frames')
        for index in range(6):
            image = photo(picture)
            kept.add('phone', shrink(image[10 * index :, 12 * index :], 240))
    done = folder / 'cloud' / 'rounds.jsonl'
    try:
        deployment.up()
        wait(lambda: '"round begins"' in deployment.log('cloud'))
        began = time.monotonic()
        # Long enough for the edges to have fetched their work.
        time.sleep(1.5)
        before = len(read_rounds(done))
        deployment.kill('cloud')
        killed_after = time.monotonic() - began
        deployment.start('cloud')
        restarted = time.monotonic()
        wait(lambda: read_rounds(done))
        return {
            'killed_after': killed_after,
            'rounds': before,
            'seconds': time.monotonic() - restarted,
            'round': vars(read_rounds(done)[0]),
        }
    finally:
        deployment.down()


def wait(condition: Callable[[], Any], seconds: float = 900) -> None:
    """Wait for a condition.

    Raises:
        TimeoutError: It did not come true in time.
    """
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError('waited too long')
        time.sleep(0.1)
