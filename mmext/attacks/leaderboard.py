"""A page that compares the results of ``mmext attack``, in one HTML file without dependencies."""

import html
import json
from collections.abc import Sequence
from pathlib import Path

NAME = 'leaderboard.html'
_COLOURS = ('#1b6ca8', '#c8553d', '#2a9d6f', '#8a5fbf', '#b8860b', '#5a6472')
_WIDTH, _HEIGHT, _EDGE = 560, 300, 44
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem;
  color: #1c2126; background: #fff }
table { border-collapse: collapse; width: 100% } th, td { padding: .35rem .7rem; text-align: right }
th:first-child, td:first-child { text-align: left } tr { border-bottom: 1px solid #d8dde2 }
svg { max-width: 100%; height: auto } .warning { color: #9a3412 } text { font-size: 12px }
@media (prefers-color-scheme: dark) { body { color: #e6e9ec; background: #14181c }
  tr { border-color: #333a41 } text { fill: #e6e9ec } .warning { color: #fb923c } }
"""


def write_leaderboard(folder: Path) -> Path:
    """Write ``leaderboard.html`` from all ``*/attack.json`` of a folder.

    Results are compared within a norm. Within it they are ranked by the robust accuracy at their
    largest strength, best first, those of more warnings after those of fewer: an accuracy under an
    attack that is misled says nothing.

    Args:
        folder: Its folders hold results.

    Returns:
        The file.
    """
    results = []
    for path in sorted(folder.glob('*/attack.json')):
        told = json.loads(path.read_text())
        if isinstance(told, dict) and told.get('robust_accuracy') and 'warnings' in told:
            results.append({'name': path.parent.name, 'norm': 'l2', **told})
    parts = []
    for norm in sorted({result['norm'] for result in results}):
        own = sorted((r for r in results if r['norm'] == norm), key=_rank)
        title = {'linf': 'L∞', 'l2': 'L2'}.get(norm, norm)
        parts.append(f'<h2>{html.escape(title)}</h2>{_curves(own)}{_table(own)}')
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Robust accuracy</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<style>{_STYLE}</style><h1>Robust accuracy</h1>{"".join(parts)}</html>\n'
    )
    path = folder / NAME
    path.write_text(page, encoding='utf-8')
    return path


def _rank(result: dict) -> tuple[int, float]:
    return len(result['warnings']), -list(result['robust_accuracy'].values())[-1]


def _points(result: dict) -> list[tuple[float, float]]:
    """Strengths and accuracies, the clean one at 0."""
    found = {0.0: result['clean_accuracy']}
    found |= {float(eps): value for eps, value in result['robust_accuracy'].items()}
    return sorted(found.items())


def _curves(results: Sequence[dict]) -> str:
    furthest = max(_points(result)[-1][0] for result in results) or 1.0

    def place(eps: float, accuracy: float) -> str:
        x = _EDGE + (_WIDTH - 2 * _EDGE) * eps / furthest
        return f'{x:.1f},{_HEIGHT - _EDGE - (_HEIGHT - 2 * _EDGE) * accuracy / 100:.1f}'

    lines = []
    for level in (0, 25, 50, 75, 100):
        start, end = place(0, level).split(','), place(furthest, level).split(',')
        lines.append(
            f'<line x1="{start[0]}" y1="{start[1]}" x2="{end[0]}" y2="{end[1]}" stroke="#8884"/>'
            f'<text x="{_EDGE - 6}" y="{float(start[1]) + 4}" text-anchor="end">{level}</text>'
        )
    for index, result in enumerate(results):
        points = ' '.join(place(*point) for point in _points(result))
        colour = _COLOURS[index % len(_COLOURS)]
        lines.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2">'
            f'<title>{html.escape(result["name"])}</title></polyline>'
        )
    lines.append(
        f'<text x="{_WIDTH / 2}" y="{_HEIGHT - 10}" text-anchor="middle">strength, up to '
        f'{furthest:g}; accuracy in %</text>'
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" role="img" '
        f'aria-label="Accuracy by strength">{"".join(lines)}</svg>'
    )


def _table(results: Sequence[dict]) -> str:
    strengths = sorted({eps for r in results for eps in r['robust_accuracy']}, key=float)
    head = ['result', 'attack', 'images', 'clean %', *(f'at {eps} %' for eps in strengths), 's']
    rows = [''.join(f'<th>{html.escape(cell)}</th>' for cell in head)]
    for index, result in enumerate(results):
        dot = f'<span style="color:{_COLOURS[index % len(_COLOURS)]}">●</span> '
        robust = (result['robust_accuracy'].get(eps) for eps in strengths)
        cells = [
            result['attack'],
            str(result['images']),
            f'{result["clean_accuracy"]:.1f}',
            *('' if value is None else f'{value:.1f}' for value in robust),
            f'{result["seconds"] * result["images"]:.0f}',
        ]
        rows.append(
            f'<td>{dot}{html.escape(result["name"])}</td>'
            + ''.join(f'<td>{html.escape(cell)}</td>' for cell in cells)
        )
        rows += [
            f'<td class="warning" colspan="{len(head)}">⚠ {html.escape(warning)}</td>'
            for warning in result['warnings']
        ]
    return '<table>' + ''.join(f'<tr>{row}</tr>' for row in rows) + '</table>'
