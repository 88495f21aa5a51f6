"""Logs as JSON lines; secrets cannot get into them.

Events have a name and fields of :data:`FIELDS` only: no metadata, no token, no code, no picture.
"""

import json
import logging
import sys
import time
from typing import Any, TextIO

from mmengine.logging import MMLogger

LOGGER = logging.getLogger('mmext.mvstylizer')

#: Names of fields that an event may have. A new one is added here, where a reviewer sees it.
FIELDS = frozenset(
    {
        'accepted',
        'address',
        'bytes',
        'candidate',
        'count',
        'deleted',
        'device',
        'edge',
        'error',
        'frames',
        'model_version',
        'name',
        'pid',
        'reason',
        'role',
        'round',
        'score',
        'sequence',
        'session',
        'state',
        'token_id',
        'version',
    }
)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, process, event and its fields."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = {
            'time': time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))
            + f'.{int(record.msecs):03d}Z',
            'level': record.levelname.lower(),
            'process': self._process,
            'event': record.getMessage(),
            **getattr(record, 'fields', {}),
        }
        if record.exc_info and record.exc_info[0] is not None:
            line['exception'] = record.exc_info[0].__name__
            line['trace'] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def start(process: str, level: str = 'INFO', stream: TextIO | None = None) -> logging.Handler:
    """Send the events of this process to a stream (standard error) as JSON lines.

    Of MMEngine only warnings and of Flower only errors come through, those as JSON, too.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter(process))
    LOGGER.addHandler(handler)
    LOGGER.setLevel(level)
    LOGGER.propagate = False
    MMLogger.get_current_instance().setLevel('WARNING')
    flower = logging.getLogger('flwr')
    flower.handlers = [handler]
    flower.setLevel('ERROR')
    return handler


def event(name: str, /, level: int = logging.INFO, exc_info: bool = False, **fields: Any) -> None:
    """Log an event.

    Raises:
        ValueError: A field is not in :data:`FIELDS`.
    """
    unknown = sorted(fields.keys() - FIELDS)
    if unknown:
        raise ValueError(f'log fields {unknown} are not in logs.FIELDS')
    LOGGER.log(level, name, extra={'fields': fields}, exc_info=exc_info)
