"""SmoothOut leaves a sharp minimum: the loss, its average over the noise, and where runs end."""

import numpy as np
import style
from matplotlib.figure import Figure

SOURCES = ('projects/smoothout/results/landscape.json',)


def draw(theme: style.Style) -> Figure:
    """Left: the landscape before and after averaging. Right: ends of all runs."""
    result = style.recorded(SOURCES[0])
    data = result['data']
    wells = data['sharp minimum (place, depth, width)'], data['flat']
    x = np.linspace(-1.2, 5, 800)
    loss = landscape(x, wells)
    noise = np.linspace(-data['strength'], data['strength'], 401)
    averaged = landscape(x[:, None] + noise, wells).mean(1)
    figure, (left, right) = style.axes(2, height=3.1)
    left.plot(x, loss, color=theme.muted, label='loss L(w)')
    left.plot(x, averaged, color=theme.accent, label='average E L(w + n)')
    left.annotate('sharp, deeper', (0, -2.05), (-0.9, -2.25), color=theme.ink)
    left.annotate('flat', (2.5, -2), (2.3, -2.25), color=theme.ink)
    left.set(xlabel='weight w', ylabel='loss', ylim=(-2.35, 0.1), title='What is minimised')
    left.legend(loc='upper right')
    bins = np.linspace(-0.5, 4, 46)
    for row, colour in zip(result['rows'], (theme.muted, theme.accent), strict=False):
        ends = np.concatenate([np.ravel(end) for end in row['ends']])
        right.hist(ends, bins, color=colour, label=row['method'], alpha=0.9)
    right.set(xlabel='weight at the end of a run', ylabel='runs', title='Where runs end')
    right.legend()
    return figure


def landscape(x: np.ndarray, wells) -> np.ndarray:
    """Two wells of Gaussian shape."""
    parts = [depth * np.exp(-((x - place) ** 2) / (2 * width**2)) for place, depth, width in wells]
    return -sum(parts)
