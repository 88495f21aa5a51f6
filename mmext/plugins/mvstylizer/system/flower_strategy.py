"""Rounds by Flower: its strategy interface around our aggregation."""

import time
from collections.abc import Callable, Iterable

import torch

from . import logs
from .aggregation import Update
from .federation import Federation

try:
    from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
    from flwr.serverapp import Grid
    from flwr.serverapp.strategy import FedAvg
except ImportError as error:
    raise ImportError(
        "federated rounds need Flower: pip install 'mmext[system]'", name='flwr'
    ) from error

ARRAYS, CONFIG, METRICS = 'arrays', 'config', 'metrics'


class GatedFedAvg(FedAvg):
    """Flower's FedAvg with our checks, average and gate; only deltas come back.

    Differs from Flower's own aggregation: an update that is not finite, has other shapes or an
    outlying norm is refused and counted; integer entries stay the server's (Flower averages them
    into floats); a round without usable updates is told as such; a model that is worse on held-out
    pictures is not published.

    Args:
        federation (Federation): Models and rounds of the cloud.
        min_nodes (int): Edges that a round waits for. Default 1.
        wait_s (float): At most so long; then it runs with those that are there. Default 30.
    """

    def __init__(self, federation: Federation, min_nodes: int = 1, wait_s: float = 30) -> None:
        super().__init__(
            fraction_evaluate=0.0, min_train_nodes=1, min_evaluate_nodes=0, min_available_nodes=1
        )
        self._federation = federation
        self._min_nodes = min_nodes
        self._wait_s = wait_s
        self._version = 0
        self._names: Callable[[int], str] = str

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """One message for each edge: weights, version, number of the round."""
        until = time.monotonic() + self._wait_s
        nodes = list(grid.get_node_ids())
        while len(nodes) < self._min_nodes and time.monotonic() < until:
            time.sleep(0.2)
            nodes = list(grid.get_node_ids())
        self._names = getattr(grid, 'name_of', str)
        # A rollback by an operator counts from the next round on.
        self._version = self._federation.models.current
        record = RecordDict(
            {
                ARRAYS: ArrayRecord(dict(self._federation.state(self._version))),
                CONFIG: ConfigRecord(
                    {
                        **config,
                        'version': self._version,
                        'round': len(self._federation.rounds()) + 1,
                    }
                ),
            }
        )
        logs.event('round begins', round=record[CONFIG]['round'], count=len(nodes))
        return self._construct_messages(record, nodes, MessageType.TRAIN)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Close the round."""
        updates = []
        for reply in replies:
            edge = self._names(reply.metadata.src_node_id)
            update = None if reply.has_error() else read_update(edge, reply.content)
            if update is not None and self._of_this_round(reply):
                updates.append(update)
        done = self._federation.close_round(self._version, updates)
        metrics = MetricRecord(
            {
                'taken': len(done.taken),
                'refused': len(done.refused),
                'held-out-before': done.before,
                **({} if done.after is None else {'held-out-after': done.after}),
            }
        )
        return ArrayRecord(dict(self._federation.state())), metrics

    def _of_this_round(self, reply: Message) -> bool:
        return int(reply.content[METRICS].get('version', -1)) == self._version


def read_update(edge: str, content: RecordDict) -> Update | None:
    """Update of a reply; None where the edge sat out or sent something else.

    What is inside is judged later, by :func:`.aggregation.select`.
    """
    arrays, metrics = content.get(ARRAYS), content.get(METRICS)
    if not isinstance(arrays, ArrayRecord) or not isinstance(metrics, MetricRecord):
        return None
    examples = metrics.get('num-examples', 0)
    if not arrays or not isinstance(examples, int):
        return None
    delta = {}
    for name, array in arrays.items():
        try:
            delta[name] = torch.from_numpy(array.numpy())
        except (ValueError, TypeError):
            # No array of numbers: fails the check of shapes.
            delta[name] = torch.zeros(0)
    return Update(edge, examples, delta)


def make_reply(message: Message, delta: dict[str, torch.Tensor], examples: int) -> Message:
    """Reply of an edge: its delta, empty if it sits out."""
    version = message.content[CONFIG]['version']
    content = RecordDict(
        {
            ARRAYS: ArrayRecord(delta),
            METRICS: MetricRecord({'num-examples': examples, 'version': version}),
        }
    )
    return Message(content, reply_to=message)
