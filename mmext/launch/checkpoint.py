"""Does a checkpoint belong to a model, where MMEngine only warns; and parts of one."""

import contextlib
import os
import re
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.runner import CheckpointLoader, find_latest_checkpoint
from torch import nn


def check_exists(path: str, what: str = 'checkpoint') -> None:
    """Raise FileNotFoundError unless a path is there or is an address."""
    if '://' not in path and not os.path.exists(path):
        raise FileNotFoundError(f'{what} {path} does not exist')


def read_checkpoint(path: str, logger: str | None = None) -> Any:
    """What MMEngine's loader finds at a path, on the CPU.

    Args:
        path: A file, or an address that MMEngine knows.
        logger: As MMEngine's; 'silent' says nothing.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not a checkpoint.
    """
    check_exists(path)
    try:
        return CheckpointLoader.load_checkpoint(path, map_location='cpu', logger=logger)
    except OSError:
        raise
    except Exception as error:  # the unpicklers fail on junk in any way, struct.error for one
        raise ValueError(f'{path} is not a checkpoint that torch can read: {error}') from error


def checkpoint_to_resume(work_dir: str, resume: str) -> str | None:
    """Path of the checkpoint that a training goes on from.

    Args:
        work_dir: Folder of the training, which may have moved.
        resume: A checkpoint, or ``'auto'``: the latest one in the folder.

    Returns:
        None where the folder has none yet.

    Raises:
        FileNotFoundError: The checkpoint is gone.
    """
    if resume != 'auto':
        check_exists(resume, '--resume: the checkpoint')
        return resume
    latest = find_latest_checkpoint(work_dir)
    if latest is None or '://' in latest or os.path.exists(latest):
        return latest
    # MMEngine notes an absolute path, which is wrong once the work dir has moved.
    moved = os.path.join(work_dir, os.path.basename(latest))
    if os.path.isfile(moved):
        print_log(f'{latest} is gone: {moved} is taken in its place.', logger='current')
        return moved
    raise FileNotFoundError(
        f'--resume: {work_dir}/last_checkpoint names a file that is gone; {latest} does not exist'
    )


def check_checkpoint(model: nn.Module, path: str) -> None:
    """Check that a checkpoint fills every parameter and buffer of ``model``.

    MMEngine loads what fits and warns about the rest, so a checkpoint of another architecture is
    evaluated with random weights. This is a trial load on tensors without storage: hooks that
    rename or resize old weights take part, the model keeps its values. Keys that the model does not
    have are allowed (EMA copies, statistics of the data preprocessor). Cost: reads the file once.

    Args:
        model: The built model, wrapped for distributed training or not.
        path: Checkpoint of MMEngine or a plain state dict.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not a checkpoint, or some weights would not be loaded.
    """
    checkpoint = read_checkpoint(path, logger='silent')
    state = checkpoint.get('state_dict', checkpoint) if isinstance(checkpoint, Mapping) else None
    if not isinstance(state, Mapping):
        raise ValueError(f'{path} is not a checkpoint: it has no dict of weights')
    model = model.module if is_model_wrapper(model) else model
    missing, unexpected, mismatched = _trial_load(model, state)
    if not (missing or mismatched):
        return
    lines = [
        f'{title} ({len(keys)}): {", ".join(keys[:5])}{" ..." if len(keys) > 5 else ""}'
        for title, keys in (
            ('missing', missing),
            ('of another shape', mismatched),
            ('not in the model', unexpected),
        )
        if keys
    ]
    raise ValueError(
        f'{path} does not fit {type(model).__name__}: {len(missing) + len(mismatched)} of its '
        f'{len(model.state_dict())} tensors would keep their initial values\n  '
        + '\n  '.join(lines)
        + '\nuse the config that the checkpoint was trained with'
    )


def extract_network(path: str, network: str) -> dict[str, Any]:
    """Take one network out of the checkpoint of a model that wraps it.

    Args:
        path: Checkpoint of the whole model.
        network: Name of the submodule, ``'teacher1'`` or ``'networks.0'``.

    Returns:
        Checkpoint of the network alone: ``state_dict``, and ``meta`` with ``network`` and, where
        they are known, the classes.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not a checkpoint, or has no such network.
    """
    saved = read_checkpoint(path)
    state = saved.get('state_dict', saved)
    prefix = f'{network}.'
    plain = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    if not plain:
        found = sorted({key.partition('.')[0] for key in state})
        raise ValueError(f'{path} has no network {network!r}; it has {found}')
    meta: dict[str, Any] = {'network': network}
    classes = saved.get('meta', {}).get('dataset_meta')
    if classes:
        meta['dataset_meta'] = dict(classes)
    return {'state_dict': plain, 'meta': meta}


def _trial_load(
    model: nn.Module, state: Mapping[str, torch.Tensor]
) -> tuple[list[str], list[str], list[str]]:
    """Return the missing, the unexpected and the mismatched keys of a load."""
    # As MMEngine's own loader: checkpoints know nothing of wrappers, at the top or further down.
    wrapped = [name for name, module in model.named_modules() if is_model_wrapper(module)]
    stripped: OrderedDict[str, torch.Tensor] = OrderedDict()
    for key, value in state.items():
        key = key.removeprefix('module.')
        for name in wrapped:
            if key.startswith(f'{name}.'):
                key = f'{name}.module.{key.removeprefix(f"{name}.")}'
        stripped[key] = value
    # Versions of the modules, which their loading hooks read.
    stripped._metadata = getattr(state, '_metadata', OrderedDict())  # type: ignore[attr-defined]
    keys: dict[str, list[str]] = {'missing': [], 'unexpected': []}
    mismatched: list[str] = []
    # The return value would do, but there is none when a shape differs.
    handle = model.register_load_state_dict_post_hook(
        lambda _, found: keys.update(missing=[*found[0]], unexpected=[*found[1]])
    )
    try:
        with _without_storage(model):
            model.load_state_dict(stripped, strict=False)
    except RuntimeError as error:
        # torch has no other way to tell these.
        mismatched = re.findall(r'size mismatch for ([^:]+):', str(error)) or [str(error)]
    finally:
        handle.remove()
    ignored = ('num_batches_tracked', 'data_preprocessor.')
    missing = [key for key in keys['missing'] if not any(part in key for part in ignored)]
    return missing, keys['unexpected'], mismatched


@contextlib.contextmanager
def _without_storage(model: nn.Module) -> Iterator[None]:
    """Put meta tensors of the same shape in the place of all parameters and buffers."""
    saved = [(module, {**module._parameters}, {**module._buffers}) for module in model.modules()]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', message='.*copying from a non-meta parameter')
            for module, parameters, buffers in saved:
                for name, parameter in parameters.items():
                    if parameter is not None:
                        module._parameters[name] = nn.Parameter(
                            parameter.detach().to('meta'), requires_grad=False
                        )
                for name, buffer in buffers.items():
                    if buffer is not None:
                        module._buffers[name] = buffer.to('meta')
            yield
    finally:
        for module, parameters, buffers in saved:
            module._parameters.update(parameters)
            module._buffers.update(buffers)
