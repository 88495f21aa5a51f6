"""Training pipelines of two teacher-student pairs, made of those of a plain detector's config."""

from typing import Any

from mmext.registry import short_name

BRANCHES = ('sup_student1', 'sup_student2', 'unsup_teacher', 'unsup_student1', 'unsup_student2')
#: Transforms that mix images, for which the host's dataset has a wrapper.
MIXING = ('CachedMixUp', 'CachedMosaic', 'CopyPaste', 'MixUp', 'Mosaic')

_RESIZES = (
    'FixScaleResize', 'FixShapeResize', 'RandomChoiceResize', 'RandomResize', 'Resize',
    'ResizeShortestEdge',
)  # fmt: skip
# Without the homography, teachers' boxes cannot be moved to the students' views.
_META_KEYS = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'homography_matrix')
# Colours and geometry as in MMDetection's configs for semi-supervised detection.
_COLOURS = (
    'ColorTransform', 'AutoContrast', 'Equalize', 'Sharpness', 'Posterize', 'Solarize', 'Color',
    'Contrast', 'Brightness',
)  # fmt: skip
_GEOMETRY = ('Rotate', 'ShearX', 'ShearY', 'TranslateX', 'TranslateY')


def pipeline_of(dataset: Any) -> list[dict]:
    """Transforms that a sample of a dataset config passes, those of its wrappers last."""
    inner = inside(dataset)
    return [*(pipeline_of(inner) if inner else ()), *((dataset or {}).get('pipeline') or ())]


def inside(dataset: Any) -> Any:
    """The dataset that a wrapper has, the first of several; None: it is no wrapper."""
    several = (dataset or {}).get('datasets') or [(dataset or {}).get('dataset')]
    return several[0]


def labelled_pipeline(train: list[dict], student: int) -> list[dict]:
    """The host's own training pipeline without mixing of images, into the branch of a student.

    Args:
        train: Of the host, see :func:`pipeline_of`.
        student: 1 or 2.

    Raises:
        ValueError: It does not end as those of MMDetection.
    """
    *transforms, pack = [transform for transform in train if not mixes(transform)] or [{}]
    if short_name(pack.get('type', '')) != 'PackDetInputs':
        raise ValueError(
            "the training pipeline of the config does not end with PackDetInputs, so one's own "
            'data cannot pass it: take the config of a plain MMDetection detector'
        )
    branch = {'type': 'MultiBranch', 'branch_field': [*BRANCHES], BRANCHES[student - 1]: pack}
    return [*transforms, branch]


def mixes(transform: dict) -> bool:
    """Whether a transform mixes images, or cuts the image out of a mosaic of them."""
    name = short_name(transform['type'])
    return name in MIXING or name == 'RandomAffine' and min(transform.get('border', (0, 0))) < 0


def unlabelled_pipeline(train: list[dict], test: list[dict]) -> list[dict]:
    """A weak view for the teachers and a strong one for each student.

    All have the size of the host's test images, at which the teachers detect best, and its flips.

    Args:
        train, test: Of the host, see :func:`pipeline_of`.
    """

    def like(pipeline: list[dict], *names: str) -> list[dict]:
        return [transform for transform in pipeline if short_name(transform['type']) in names]

    loads = [t for t in (*train, *test) if short_name(t['type']).startswith('LoadImage')]
    load = next(iter(loads), {'type': 'LoadImageFromFile'})
    # The transforms of the strong view are for bytes.
    load = {key: value for key, value in load.items() if key != 'to_float32'}
    sizes = like(test, *_RESIZES) or like(train, *_RESIZES)[:1]
    # At their own size; the transform notes the scale, which detections are undone by.
    sizes = sizes or [{'type': 'Resize', 'scale_factor': 1.0, 'keep_ratio': True}]
    begin = [*sizes, *like(train, 'RandomFlip')[:1]]
    pack = {'type': train[-1]['type'], 'meta_keys': _META_KEYS}
    end = [*like(test, 'Pad'), pack]
    changes = [
        {'type': 'RandAugment', 'aug_space': [[{'type': name}] for name in space], 'aug_num': 1}
        for space in (_COLOURS, _GEOMETRY)
    ]
    erase = {'type': 'RandomErasing', 'n_patches': (1, 5), 'ratio': (0, 0.2)}
    strong = [*begin, *changes, erase, *end]
    return [
        load,
        {'type': 'LoadEmptyAnnotations', 'with_bbox': True},
        {
            'type': 'MultiBranch',
            'branch_field': [*BRANCHES],
            'unsup_teacher': [*begin, *end],
            'unsup_student1': strong,
            'unsup_student2': strong,
        },
    ]
