"""Cloud, two edges and a phone on this machine stylise a clip; an edge is killed on the way.

What ``make mvstylizer-system`` runs: a development CA, enrolment, the three kinds of processes over
TLS, one federated round on what the edges have kept, and a report.
"""

import argparse
import json
import sys
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(Path(__file__).resolve().parent)]

import cv2  # noqa: E402
from system_deployment import STYLIZER, Deployment  # noqa: E402

from mmext.datasets.clips import clip_path  # noqa: E402
from mmext.datasets.photos import photo  # noqa: E402
from mmext.plugins.mvstylizer.system.federation import read_rounds  # noqa: E402
from mmext.plugins.mvstylizer.system.phone_main import stylize_file  # noqa: E402


def main() -> None:
    """Run the demo and print its report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--clip', type=Path, help='video; default: a street clip of six scenes')
    parser.add_argument('--style', type=Path, help='style picture; default: a photo')
    parser.add_argument('--weights', default='shipped', help='checkpoint of the stylizer')
    parser.add_argument('--max-frames', type=int, help='end after so many frames')
    parser.add_argument('--no-faults', action='store_true', help='kill no edge')
    parser.add_argument('--work-dir', type=Path, default=ROOT / 'work_dirs/mvstylizer_system')
    args = parser.parse_args()
    clip = args.clip or clip_path('bikes')
    deployment = Deployment(
        args.work_dir,
        stylizer={**STYLIZER, 'weights': args.weights},
        rounds={'every_s': 2},
        training={'iterations': 20, 'min_frames': 2},
    )
    style = args.style
    if style is None:
        style = args.work_dir / 'style.png'
        cv2.imwrite(str(style), cv2.cvtColor(photo('china'), cv2.COLOR_RGB2BGR))
    say = sys.stderr.write
    try:
        say('starting cloud and edges ...\n')
        deployment.phone(
            consent=True, play={'latency_s': 1.0, 'realtime': True}, link={'stall_s': 2}
        )
        deployment.up()
        say('stylising ...\n')
        report = run(deployment, clip, style, args)
        report['edges'] = {name: counters(deployment, name) for name in deployment.names}
        print_report(report)
        say('waiting for a federated round ...\n')
        print_round(one_round(deployment))
    finally:
        deployment.down()


def run(deployment: Deployment, clip: Path, style: Path, args: argparse.Namespace) -> dict:
    """Stylise the clip; the first edge dies a third of the way and comes back."""
    import threading

    done = threading.Event()

    def disturb() -> None:
        if done.wait(3):
            return
        sys.stderr.write('killing edge0 ...\n')
        deployment.kill('edge0')
        if not done.wait(1):
            deployment.start('edge0')

    thread = threading.Thread(target=disturb)
    if not args.no_faults:
        thread.start()
    output = args.work_dir / 'stylised.mp4'
    try:
        report = stylize_file(deployment.path('phone'), clip, style, output, args.max_frames)
    finally:
        done.set()
        if not args.no_faults:
            thread.join()
    if 'edge0' not in deployment.processes:
        deployment.start('edge0')
    return {'output': str(output), **report}


def one_round(deployment: Deployment, seconds: float = 240) -> dict | None:
    """The first round with updates; None: it did not come in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        rounds = read_rounds(deployment.folder / 'cloud' / 'rounds.jsonl')
        for found in rounds:
            if found.outcome != 'no updates':
                return vars(found)
        time.sleep(0.5)
    return None


def counters(deployment: Deployment, name: str) -> dict[str, float]:
    """Some of what a server tells Prometheus."""
    wanted = ('mvst_keys_accepted_total', 'mvst_keys_answered_total', 'mvst_collected_frames')
    address = f'http://127.0.0.1:{deployment.metrics[name]}/metrics'
    with urllib.request.urlopen(address, timeout=10) as reply:
        lines = reply.read().decode().splitlines()
    pairs = (line.rsplit(' ', 1) for line in lines if line.startswith(wanted))
    return {key.removeprefix('mvst_'): float(value) for key, value in pairs}


def print_report(report: dict) -> None:
    """The report as text."""
    print(f'\n{report["frames"]} frames in {report["seconds"]:.1f} s -> {report["output"]}')
    print('\nframes by the way they were made')
    for way, count in report['ways'].items():
        print(f'  {way:15} {count:5}  {100 * count / max(report["frames"], 1):5.1f} %')
    for name in ('latency_ms', 'round_trip_ms'):
        values = report[name]
        print(f'{name.replace("_ms", "").replace("_", " "):13} p50 {values["p50"]} ms, '
              f'p95 {values["p95"]} ms')  # fmt: skip
    print(f'bytes         up {report["bytes"]["up"]:,}, down {report["bytes"]["down"]:,}')
    print(f'faults got over: {json.dumps(report["faults"])}')
    print(f'edges: {json.dumps(report["edges"])}')
    sys.stdout.flush()


def print_round(found: dict | None) -> None:
    """A federated round as text."""
    if found is None:
        print('federated round: none in time')
    else:
        after = 'none' if found['after'] is None else f'{found["after"]:.4f}'
        print(f'federated round {found["number"]}: {found["outcome"]}, held-out loss '
              f'{found["before"]:.4f} -> {after}, edges {found["taken"]}')  # fmt: skip


if __name__ == '__main__':
    main()
