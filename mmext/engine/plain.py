"""What MMEngine keeps in a checkpoint as objects, in tensors, numbers, strings, lists and dicts.

``torch.load(path, weights_only=True)`` refuses the ``HistoryBuffer`` of every logged scalar and the
arrays and numbers of NumPy. :func:`to_plain` replaces them by marked dicts, :func:`from_plain` puts
them back.
"""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

MARK = '_mmext_plain_'


def to_plain(value: Any) -> Any:
    """Return a copy of ``value`` without objects of MMEngine and NumPy; tensors are shared.

    Goes through dicts, lists and tuples. What it does not know stays as it is.
    """
    if isinstance(value, HistoryBuffer):
        logged, counts = value.data
        return {
            MARK: 'HistoryBuffer',
            'log_history': to_plain(logged),
            'count_history': to_plain(counts),
            'max_length': value.max_length,
        }
    if isinstance(value, np.ndarray) and value.dtype.kind in 'biuf':
        # A copy, since NumPy knows strides that torch does not.
        return {MARK: 'ndarray', 'data': torch.from_numpy(np.array(value))}
    if isinstance(value, np.generic):
        return value.item()
    return _walk(value, to_plain)


def from_plain(value: Any) -> Any:
    """Undo :func:`to_plain`, but for numbers of NumPy, which stay Python's."""
    kind = value.get(MARK) if isinstance(value, Mapping) else None
    if kind == 'ndarray':
        return value['data'].cpu().numpy()
    if kind == 'HistoryBuffer':
        logged, counts = (from_plain(value[key]) for key in ('log_history', 'count_history'))
        return HistoryBuffer(logged, counts, max_length=value['max_length'])
    return _walk(value, from_plain)


def _walk(value: Any, change: Any) -> Any:
    if isinstance(value, OrderedDict):
        return OrderedDict((key, change(item)) for key, item in value.items())
    if isinstance(value, Mapping):
        return {key: change(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(change(item) for item in value)
    return value
