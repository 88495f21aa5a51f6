"""Labels of any data set of MMEngine's kind."""

from typing import Any

import numpy as np


def labels_of(dataset: Any) -> np.ndarray:
    """Labels of all samples, int64 (n,); of a concatenation one part after the other.

    Raises:
        ValueError: A sample has no label.
    """
    parts = getattr(dataset, 'datasets', None)
    if parts is not None:
        return np.concatenate([labels_of(part) for part in parts])
    if hasattr(dataset, 'get_gt_labels'):
        return np.asarray(dataset.get_gt_labels(), np.int64)
    found = [dataset.get_data_info(index).get('gt_label') for index in range(len(dataset))]
    if any(label is None for label in found):
        raise ValueError(f'{type(dataset).__name__} has samples without gt_label')
    return np.array(found, np.int64)
