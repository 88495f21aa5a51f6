"""Run the studies of a plugin, each in a process of its own, and refresh the claims tables.

Further arguments go to all of them. The first that fails, or that has run out of its time, ends
the program with its code; the same command goes on. After ``--quick`` there is nothing to refresh.
"""

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
STUDIES = {
    'conv_m': ('study.py',),
    'cst': ('cost.py', 'coverage.py', 'study.py'),
    'ctf_gan': ('study.py',),
    'engine': ('cpu_speed.py', 'sharding_memory.py'),
    'force_regularization': ('study.py', 'cost.py'),
    'guided_cw': ('budget.py', 'speed.py'),
    'mat': ('study.py',),
    'mvstylizer': ('speed.py', 'quality.py', 'upscaling.py', 'system.py', 'system_federated.py'),
    'randomized_smoothing': ('coverage.py', 'throughput.py', 'study.py'),
    'smoothout': ('landscape.py', 'overhead.py', 'generalisation.py'),
    'terngrad': ('accuracy.py', 'codec.py', 'network.py', 'model.py', 'wire.py'),
}


def main() -> None:
    """Run and refresh."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('plugin', choices=STUDIES)
    args, others = parser.parse_known_args()
    scripts = [HERE / args.plugin / study for study in STUDIES[args.plugin]]
    if '--quick' not in others:
        scripts.append(HERE / 'evidence.py')
    for script in scripts:
        given = [] if script.parent == HERE else others
        done = subprocess.run([sys.executable, str(script), *given])
        if done.returncode:
            sys.exit(done.returncode)


if __name__ == '__main__':
    main()
