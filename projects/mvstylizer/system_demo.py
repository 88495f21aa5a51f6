"""Cloud, two edges and a phone on this machine stylise a clip; an edge is killed on the way.

What ``make mvstylizer-system`` runs: a development CA, enrolment, the three kinds of processes over
TLS, one federated round on what the edges have kept, and a report.
"""

import argparse
import contextlib
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(Path(__file__).resolve().parent)]

from system_deployment import Deployment, timed, until  # noqa: E402

from mmext.datasets.clips import clip_path  # noqa: E402
from mmext.plugins.mvstylizer.system.federation import Round, read_rounds  # noqa: E402
from mmext.plugins.mvstylizer.system.phone_main import stylize_file  # noqa: E402


def main() -> None:
    """Run the demo and print its report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--clip', type=Path, help='video; default: a street clip of six scenes')
    parser.add_argument('--style', type=Path, help='style picture; default: a photo')
    parser.add_argument('--max-frames', type=int, help='end after so many frames')
    parser.add_argument('--work-dir', type=Path, default=ROOT / 'work_dirs/mvstylizer_system')
    args = parser.parse_args()
    clip, output = args.clip or clip_path('bikes'), args.work_dir / 'stylised.mp4'
    deployment = Deployment(
        args.work_dir, rounds={'every_s': 2}, training={'iterations': 20, 'min_frames': 2}
    )
    style = args.style or deployment.style
    say = sys.stderr.write

    def disturb() -> None:
        say('killing edge0 ...\n')
        deployment.kill('edge0')

    try:
        say('starting cloud and edges ...\n')
        phone = deployment.phone(
            consent=True, play={'latency_s': 1.0, 'realtime': True}, link={'stall_s': 2}
        )
        deployment.up()
        say('stylising ...\n')
        with timed({3: disturb, 4: lambda: deployment.start('edge0')}):
            report = stylize_file(phone, clip, style, output, args.max_frames)
        deployment.revive()
        edges = {name: deployment.counters(name) for name in deployment.names}
        print_report({'output': str(output), 'edges': edges, **report})
        say('waiting for a federated round ...\n')
        print_round(first_round(deployment))
    finally:
        deployment.down()


def first_round(deployment: Deployment) -> Round | None:
    """The first round with updates; None: it did not come in time."""
    path = deployment.folder / 'cloud' / 'rounds.jsonl'
    with contextlib.suppress(TimeoutError):
        return until(
            lambda: next((r for r in read_rounds(path) if r.outcome != 'no updates'), None), 240
        )
    return None


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


def print_round(found: Round | None) -> None:
    """A federated round as text."""
    if found is None:
        print('federated round: none in time')
    else:
        after = 'none' if found.after is None else f'{found.after:.4f}'
        print(f'federated round {found.number}: {found.outcome}, held-out loss '
              f'{found.before:.4f} -> {after}, edges {found.taken}')  # fmt: skip


if __name__ == '__main__':
    main()
