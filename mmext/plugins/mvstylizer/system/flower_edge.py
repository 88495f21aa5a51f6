"""The edge's side of Flower's rounds: a client app that trains on collected frames."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from . import logs
from .flower_strategy import ARRAYS, CONFIG, make_reply
from .local_training import TrainOptions, delta_of, train


def make_app(
    stylizer: Mapping[str, Any], frames: Callable[[], list[Path]], options: TrainOptions
) -> ClientApp:
    """Flower's client app of an edge.

    Args:
        stylizer (Mapping): ``type`` and arguments of a trained stylizer.
        frames (Callable): Files of the frames that may be trained on now.
        options (TrainOptions): How to train.
    """
    app = ClientApp()

    @app.train()
    def train_round(message: Message, context: Context) -> Message:
        config = message.content[CONFIG]
        number = int(config['round'])
        arrays = message.content[ARRAYS]
        base = arrays.to_torch_state_dict()
        paths = frames()
        if len(paths) < options.min_frames:
            logs.event('round sat out', round=number, frames=len(paths))
            return make_reply(message, {}, 0)
        after = train(stylizer, base, paths, options, number)
        delta = delta_of(base, after)
        logs.event('round trained', round=number, frames=len(paths))
        return make_reply(message, delta, len(paths))

    return app


def run_app(app: ClientApp, message: Message, node: int) -> Message:
    """Let the app answer a message; a failure is an answer, too."""
    context = Context(
        run_id=1, node_id=node, node_config={}, state=RecordDict(), run_config={},
    )  # fmt: skip
    try:
        return app(message, context)
    except Exception as error:  # the cloud hears of it and goes on without this edge
        logs.event('round failed', logging.ERROR, exc_info=True, error=type(error).__name__)
        return Message(Error(code=0, reason=type(error).__name__), reply_to=message)
