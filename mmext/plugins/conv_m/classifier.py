"""Training with labelled source and unlabelled target images."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.model import ModuleDict
from mmengine.registry import MODELS as HOST_MODELS
from mmpretrain.models.classifiers import ImageClassifier
from mmpretrain.registry import MODELS as PRETRAIN_MODELS
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from mmext.registry import MODELS

from .domain_loss import Domain, DomainLoss, training_progress
from .label_adaptation import LabelAdaptation
from .preprocessor import refuse_mixing

# Arguments of losses that the head tells.
SIZES = ('in_channels', 'num_classes')


@MODELS.register_module()
class DomainAdaptationClassifier(ImageClassifier):
    """MMPretrain's classifier that also learns from unlabelled images of another domain.

    The loss is that of the head on the source, the samples with a label, plus ``da_losses`` on
    source and target, the samples with the label -1, which ``mmext.DropLabel`` gives. Only
    features and logits reach them. Modes 'predict' and 'tensor' are the parent's, so testing,
    export and counting of FLOPs work as for any classifier; weights of a plain ``ImageClassifier``
    load.

    Source and target are forwarded as one batch, so batch norm sees both. Features are what the
    neck gives to the head; a bottleneck (DAN, RTN: 256 units) is a ``LinearNeck``. With several
    ranks each compares its own samples.

    Args:
        backbone: As in the parent.
        neck: As in the parent.
        head: As in the parent; a ``ClsHead`` that gives logits, such as ``LinearClsHead``.
        da_losses: Configs of the losses by name, or a list of them; None in the place of a config
            switches it off. ``mmext.DomainAdversarialLoss``, ``mmext.MKMMDLoss``,
            ``mmext.LabelAdaptation``, ``mmext.CORALLoss``, ``mmext.JMMDLoss``. Without any the
            source trains alone and the target is not forwarded. A loss that must have
            ``in_channels`` or ``num_classes`` and is given none takes the head's.
        pretrained: As in the parent.
        train_cfg: As in the parent, but without augments.
        data_preprocessor: As in the parent; its default type is ``mmext.TwoDomainPreprocessor``.
        init_cfg: As in the parent.
        classifier: Config of an ``ImageClassifier`` that gives all of these, in their place (the
            overlay: ``--with conv_m``). Without a ``data_preprocessor`` it gets the one here.

    Raises:
        ValueError: A name contains "loss", two losses have one name or both adapt labels, batch
            augments are asked for; neither or both of ``backbone`` and ``classifier`` are given,
            or ``classifier`` is of another type; a size is given neither to a loss nor to the
            head; in training: a batch lacks a domain.
        TypeError: A loss is no :class:`~mmext.plugins.conv_m.domain_loss.DomainLoss`, or the head
            gives no logits to a loss.

    Example:
        >>> model = dict(
        ...     type='mmext.DomainAdaptationClassifier',
        ...     backbone=dict(type='mmext.ConvMNet'),
        ...     neck=dict(type='LinearNeck', in_channels=1024, out_channels=256, gap_dim=2,
        ...               act_cfg=dict(type='ReLU')),
        ...     head=dict(type='LinearClsHead', num_classes=31, in_channels=256),
        ...     da_losses=dict(
        ...         adversarial=dict(type='mmext.DomainAdversarialLoss'),
        ...         mmd=dict(type='mmext.MKMMDLoss'),
        ...         label=dict(type='mmext.LabelAdaptation')))

    Cost: training forwards source and target; the losses work on features only.
    """

    def __init__(
        self,
        backbone: dict | None = None,
        neck: dict | None = None,
        head: dict | None = None,
        da_losses: Mapping[str, dict | None] | Sequence[dict] | None = None,
        pretrained: str | None = None,
        train_cfg: dict | None = None,
        data_preprocessor: dict | nn.Module | None = None,
        init_cfg: dict | None = None,
        classifier: dict | None = None,
    ) -> None:
        parts: dict[str, Any] = {
            'backbone': backbone,
            'neck': neck,
            'head': head,
            'pretrained': pretrained,
            'train_cfg': train_cfg,
            'init_cfg': init_cfg,
        }
        if classifier is not None:
            parts = _parts(classifier, [key for key, part in parts.items() if part is not None])
            data_preprocessor = parts.pop('data_preprocessor', None) or data_preprocessor
        elif backbone is None:
            raise ValueError('give backbone, neck and head, or classifier, which has them')
        if not isinstance(data_preprocessor, nn.Module):
            data_preprocessor = {'type': 'mmext.TwoDomainPreprocessor', **(data_preprocessor or {})}
        super().__init__(**parts, data_preprocessor=data_preprocessor)
        refuse_mixing(self.data_preprocessor)
        if self.head is not None and not hasattr(self.head, '_get_loss'):
            raise TypeError(
                f'head {type(self.head).__name__} gives no logits to a loss; use a ClsHead such as '
                'LinearClsHead'
            )
        self.da_losses = ModuleDict(_build_losses(da_losses or {}, self.head))
        adapting = [n for n, m in self.da_losses.items() if isinstance(m, LabelAdaptation)]
        if len(adapting) > 1:
            raise ValueError(f'da_losses: {" and ".join(adapting)} both adapt labels; keep one')
        self._label_adaptation = adapting[0] if adapting else None

    def loss(self, inputs: Tensor, data_samples: list[DataSample]) -> dict[str, Tensor]:
        """Loss of a batch.

        Args:
            inputs: Images ``(N, C, H, W)``.
            data_samples: N samples with one label each; -1 is a target sample.

        Returns:
            The losses of the head on the source; of each adaptation loss ``<name>.loss`` and what
            it logs.

        Raises:
            ValueError: A domain is missing in the batch.
        """
        labels = torch.cat([sample.gt_label for sample in data_samples]).tolist()
        if len(labels) != len(inputs):
            raise ValueError(
                f'{len(inputs)} images have {len(labels)} labels; domain adaptation takes one each'
            )
        source = [index for index, label in enumerate(labels) if label >= 0]
        target = [index for index, label in enumerate(labels) if label < 0]
        _check_domains(source, target, bool(self.da_losses))
        source_samples = [data_samples[index] for index in source]
        if not self.da_losses:
            return super().loss(inputs[source], source_samples)
        feats = self.extract_feat(inputs)
        features = (feats[-1] if isinstance(feats, tuple) else feats).flatten(1)
        logits = self.head(feats)
        of_source = Domain(features[source], logits[source])
        of_target = Domain(features[target], logits[target])
        learnt = of_source.logits
        progress = training_progress()
        if self._label_adaptation is not None:
            learnt = self.da_losses[self._label_adaptation].source_logits(learnt, progress)
        losses = self.head._get_loss(learnt, source_samples)
        for name, module in self.da_losses.items():
            found = module(of_source, of_target, progress)
            losses.update({f'{name}.{key}': value for key, value in found.items()})
        return losses


def _parts(classifier: dict, given: list[str]) -> dict[str, Any]:
    """Arguments of an ``ImageClassifier`` from its config."""
    if given:
        raise ValueError(f'classifier and {", ".join(given)} are given: leave out one of them')
    # MMEngine notes the scope of a config that is inherited from another package.
    parts = {key: part for key, part in classifier.items() if key not in ('type', '_scope_')}
    named = kind = classifier.get('type')
    if isinstance(kind, str):
        kind = PRETRAIN_MODELS.get(kind)
    # A subclass may do anything in methods that would be lost here.
    if kind is not ImageClassifier:
        raise ValueError(
            f'classifier.type={named!r}: domain adaptation (conv_m) takes the parts of '
            "MMPretrain's ImageClassifier and of no other; use that, or leave conv_m out"
        )
    return parts


def _build(place: str, setting: dict, head: nn.Module | None) -> nn.Module:
    """Build a loss; sizes that it must have and ``setting`` has not are those of the head."""
    kind = setting.get('type') if isinstance(setting, Mapping) else None
    if isinstance(kind, str):
        with HOST_MODELS.switch_scope_and_registry(None) as registry:
            kind = registry.get(kind)
    # What is wrong with a setting without a known type, building it says.
    arguments = inspect.signature(kind).parameters.values() if kind is not None else ()
    required = {argument.name for argument in arguments if argument.default is argument.empty}
    sizes: dict[str, Any] = {}
    for size in SIZES:
        if size not in required or size in setting:
            continue
        sizes[size] = getattr(head, size, None)
        if not isinstance(sizes[size], int):
            who = 'there is no head' if head is None else f'{type(head).__name__} has no such size'
            raise ValueError(f'{place} has no {size}, and {who} to take: set {place}.{size}')
    return HOST_MODELS.build({**setting, **sizes} if sizes else setting)


def _build_losses(
    settings: Mapping[str, dict | None] | Sequence[dict], head: nn.Module | None
) -> dict[str, DomainLoss]:
    if not isinstance(settings, Mapping):
        built = [
            _build(f'da_losses.{index}', setting, head) for index, setting in enumerate(settings)
        ]
        titles = [getattr(module, 'title', type(module).__name__) for module in built]
        repeated = {title for title in titles if titles.count(title) > 1}
        if repeated:
            raise ValueError(
                f'da_losses has {", ".join(sorted(repeated))} more than once; give a dict with '
                'names of your own'
            )
        losses = dict(zip(titles, built, strict=True))
    else:
        losses = {
            name: _build(f'da_losses.{name}', setting, head)
            for name, setting in settings.items()
            if setting is not None
        }
    for name, module in losses.items():
        if not isinstance(module, DomainLoss):
            raise TypeError(
                f'da_losses.{name} is a {type(module).__name__}, no loss of two domains; choose '
                'mmext.DomainAdversarialLoss, mmext.MKMMDLoss, mmext.LabelAdaptation, '
                'mmext.CORALLoss or mmext.JMMDLoss'
            )
        if 'loss' in name:
            raise ValueError(
                f'da_losses: the name {name!r} contains "loss", and MMEngine would add all that is '
                'logged under it to the loss; choose another'
            )
    return losses


def _check_domains(source: list[int], target: list[int], adapts: bool) -> None:
    if not source:
        raise ValueError(
            'a batch has no source sample, all labels are -1: mmext.DropLabel belongs into the '
            "target's pipeline alone"
        )
    if adapts and not target:
        raise ValueError(
            'a batch has no target sample, all samples have a label: put mmext.DropLabel first '
            "into the target's pipeline and use mmext.TwoDomainSampler"
        )
