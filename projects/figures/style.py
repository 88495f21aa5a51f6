"""The one style of all figures of the documentation, on light and on dark pages."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

#: Pixels per inch; 8 inches wide is twice the width of a text column, sharp on dense screens.
DPI = 200
WIDTH = 8.0


ROOT = Path(__file__).resolve().parents[2]


def recorded(path: str) -> Any:
    """Content of a JSON file of the repository."""
    return json.loads((ROOT / path).read_text())


def image(path: str) -> np.ndarray:
    """An image file of the repository."""
    return plt.imread(ROOT / path)


@dataclass(frozen=True)
class Style:
    """Colours of a figure.

    Attributes:
        name: ``'light'`` or ``'dark'``.
        ink: Text, axes and outlines.
        muted: Grid, notes and what only compares.
        paper: Background.
        accent: The method of the plugin.
        cycle: The methods beside it.
    """

    name: str
    ink: str
    muted: str
    paper: str
    accent: str
    cycle: tuple[str, ...]


STYLES = (
    Style('light', '#1f2328', '#6e7781', '#ffffff', '#0a66c2',
          ('#c2510a', '#2c8a4b', '#8250df', '#bf8700', '#1b7c83')),
    Style('dark', '#e6edf3', '#8b949e', '#0d1117', '#58a6ff',
          ('#ffa657', '#7ee787', '#d2a8ff', '#e3b341', '#56d4dd')),
)  # fmt: skip


@contextmanager
def applied(style: Style) -> Iterator[None]:
    """Draw in a style inside."""
    settings = {
        'figure.facecolor': style.paper, 'axes.facecolor': style.paper,
        'savefig.facecolor': style.paper, 'text.color': style.ink, 'axes.edgecolor': style.muted,
        'axes.labelcolor': style.ink, 'axes.titlecolor': style.ink, 'xtick.color': style.ink,
        'ytick.color': style.ink, 'grid.color': style.muted, 'grid.alpha': 0.25,
        'axes.grid': True, 'axes.axisbelow': True, 'axes.spines.top': False,
        'axes.spines.right': False, 'font.family': 'DejaVu Sans', 'font.size': 10.5,
        'axes.titlesize': 11.5, 'legend.frameon': False, 'lines.linewidth': 2.2,
        'axes.prop_cycle': mpl.cycler(color=[style.accent, *style.cycle]),
    }  # fmt: skip
    with mpl.rc_context(settings):
        yield


def axes(columns: int = 1, rows: int = 1, height: float = 3.2, **settings) -> tuple[Figure, list]:
    """A figure of the common width with its axes in a flat list; ``height`` is in inches."""
    figure, found = plt.subplots(
        rows, columns, figsize=(WIDTH, height), squeeze=False, layout='constrained', **settings
    )
    return figure, list(found.flat)


def pictures(ax: Axes, title: str = '') -> Axes:
    """Make the axes a frame for an image: no ticks, no grid."""
    ax.set_xticks([])
    ax.set_yticks([])
    ax.grid(False)
    ax.spines[:].set_visible(False)
    ax.set_title(title)
    return ax
