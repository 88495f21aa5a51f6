"""Figures of the results: ranks per layer and fine-tuning curves."""

import argparse
import json
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent


def draw(result: dict, path: Path) -> None:
    """Ranks (mean over the seeds) beside validation accuracy while fine-tuning."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.6), layout='constrained')
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for index, row in enumerate(result['rows']):
        colour = f'C{index}'
        layers = list(row['ranks'][0])
        shares = [
            [(rank or full) / full for rank, full in (seed[name] for name in layers)]
            for seed in row['ranks']
        ]
        if 'ranks' not in row['method']:
            left.plot(np.mean(shares, 0), color=colour, marker='.', label=row['method'])
        steps = [step for step, _ in row['curves'][0]]
        accuracy = np.array([[value for _, value in curve] for curve in row['curves']])
        right.plot(steps, accuracy.mean(0), color=colour, marker='.', label=row['method'])
        if len(accuracy) > 1:
            spread = accuracy.std(0, ddof=1)
            low, high = accuracy.mean(0) - spread, accuracy.mean(0) + spread
            right.fill_between(steps, low, high, color=colour, alpha=0.15)
    left.set(xlabel='convolution, from the input', ylabel='rank / full rank', ylim=(0, 1.05))
    left.set_title('rank at 95 % energy (1: kept whole)', fontsize=10)
    left.legend(fontsize=8)
    right.set(xlabel='iteration of fine-tuning', ylabel='validation accuracy (%)')
    right.set_title('fine-tuning after decomposition', fontsize=10)
    right.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Draw every result that has curves."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--results', type=Path, default=HERE / 'results')
    args = parser.parse_args()
    for path in sorted(args.results.glob('*.json')):
        result = json.loads(path.read_text())
        if 'curves' in result['rows'][0]:
            draw(result, path.with_suffix('.png'))


if __name__ == '__main__':
    main()
