"""The detector with two teacher-student pairs."""

import copy
from typing import Any

import torch
from mmdet.models.detectors import BaseDetector
from mmdet.models.utils import rename_loss_dict, reweight_loss_dict
from mmdet.registry import MODELS as MMDET_MODELS
from mmdet.registry import TASK_UTILS as MMDET_TASK_UTILS
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import get_box_tensor
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torchvision.ops import nms

from mmext.datasets.box_views import project_boxes
from mmext.registry import MODELS

from .checkpoints import check_fit, translate
from .consistency import DistributionConsistency
from .early_backward import early_backward, freed
from .float32 import boxes_in_float32
from .functional import (
    class_opinion,
    cross_iou,
    fuse_detections,
    jensen_shannon,
    odds_distribution,
    paired_iou,
)
from .settings import COUNTED, NETWORKS, PREDICT_ON, TEST_CFG_DEFAULTS, merge, train_cfg
from .thresholds import CountThresholds
from .weighting import num_classes, weigh_boxes


@MODELS.register_module()
class CycleSelfTraining(BaseDetector):
    """Cycle self-training, S1 -> T1 -> S2 -> T2 -> S1 (arXiv 2207.05334).

    Any MMDetection detector is built four times: ``student1``, ``student2`` and their moving
    averages ``teacher1``, ``teacher2``. On the weak view of unlabelled images both teachers
    predict; the boxes of T1, weighted by the agreement of T1 and T2 on them, train S2 on a strong
    view, and those of T2 train S1. Labelled images train both students. The averaging itself, the
    burn-in (supervised only) and the ramp of the unsupervised loss belong to
    :class:`~mmext.plugins.cst.teacher_hook.CycleTeacherHook`.

    Training batches come from ``MultiBranchDataPreprocessor`` with the branches ``sup`` (or
    ``sup_student1`` and ``sup_student2``), ``unsup_teacher`` (weak view) and ``unsup_student``
    (strong view; or ``unsup_student1`` and ``unsup_student2``, two independent ones). The
    unsupervised views carry ``homography_matrix`` in their meta keys.

    Cost against a mean teacher of the same batch: twice the student and teacher passes; two student
    graphs in memory, one with ``sequential_backward``.

    Args:
        detector: Config of any MMDetection detector; one that takes a weight per box
            (:mod:`~mmext.plugins.cst.weighting`) where boxes are weighted or ignored.
        semi_train_cfg: ``score_thr`` (a pseudo-box scores at least this, [0, 1]; ``'count'`` or
            ``'class_count'``: measured, see
            :class:`~mmext.plugins.cst.thresholds.CountThresholds`),
            ``ignore_score_thr`` (boxes from here up to ``score_thr`` are neither object nor
            background; None: there are none), ``ignore_count`` (the same for counts: of so many
            times the labelled boxes, > 1), ``score_power`` (both compare with
            ``score ** score_power``; 0.5 for the products class x centerness of FCOS),
            ``odds_power`` (see :func:`~mmext.plugins.cst.functional.odds_distribution`),
            ``agnostic_nms_iou`` (of boxes that overlap more, whatever their classes, only the best
            one is a pseudo-label, since one object has one class; None: detectors with a sigmoid
            per class then teach two classes on one object),
            ``min_pseudo_bbox_wh`` (px), ``sup_weight``, ``unsup_weight`` (>= 0),
            ``split_batch`` (each student sees one half of the labelled and of the unlabelled
            images: an iteration costs about as much as a mean teacher's),
            ``sequential_backward`` (differentiate S1 before S2 runs: one student graph in memory
            instead of two, the same gradients, log and time). All ours.
        semi_test_cfg: ``predict_on``: ``'teacher1'``, ``'teacher2'``, ``'student1'``,
            ``'student2'`` or ``'ensemble'`` (both teachers, fused by class at ``fuse_iou_thr``).
            Ours.
        consistency: Config of a ``mmext.DistributionConsistency``.
        data_preprocessor: ``MultiBranchDataPreprocessor`` around the detector's own.
        init_cfg: As in MMDetection.

    Raises:
        ValueError: Unknown keys or values of the two cfgs.
        TypeError: The heads of ``detector`` cannot be weighted per box.

    Example:
        >>> model = dict(
        ...     type='mmext.CycleSelfTraining',
        ...     detector=detector,
        ...     consistency=dict(type='mmext.DistributionConsistency', kind='js'),
        ...     semi_train_cfg=dict(score_thr=0.7, unsup_weight=4.0),
        ...     semi_test_cfg=dict(predict_on='teacher1'),
        ...     data_preprocessor=dict(
        ...         type='MultiBranchDataPreprocessor', data_preprocessor=preprocessor))
    """

    def __init__(
        self,
        detector: dict,
        semi_train_cfg: dict | None = None,
        semi_test_cfg: dict | None = None,
        consistency: dict | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        self.semi_train_cfg = train_cfg(semi_train_cfg)
        self.semi_test_cfg = merge('semi_test_cfg', TEST_CFG_DEFAULTS, semi_test_cfg)
        self.predict_on = self.semi_test_cfg['predict_on']
        self.consistency: DistributionConsistency = MMDET_TASK_UTILS.build(
            consistency or dict(type='mmext.DistributionConsistency')
        )
        for name in NETWORKS:
            network = MMDET_MODELS.build(copy.deepcopy(detector))
            boxes_in_float32(network)
            setattr(self, name, network)
        cfg = self.semi_train_cfg
        self.num_classes = num_classes(self.teacher1)
        if self.consistency.needs_weights or cfg['ignore_score_thr'] or cfg['ignore_count']:
            for student in self.students:
                weigh_boxes(student, check=student is self.student1)
        if cfg['score_thr'] in COUNTED:
            self.thresholds = nn.ModuleList(
                CountThresholds(self.num_classes, cfg['score_thr'] == 'class_count')
                for _ in self.teachers
            )
        for teacher in self.teachers:
            teacher.requires_grad_(False)
            teacher.eval()
        #: Factor of the unsupervised losses, 0 during burn-in; moved by ``CycleTeacherHook``.
        self.unsup_scale = 1.0
        #: Whether a checkpoint that holds teachers has been loaded.
        self.teachers_loaded = False

    @property
    def works_on_shards(self) -> bool | str:
        """True, or why not (:mod:`mmext.engine.sharding`)."""
        if not self.semi_train_cfg['sequential_backward']:
            return True
        return 'semi_train_cfg.sequential_backward differentiates in the middle of the forward'

    @property
    def students(self) -> tuple[nn.Module, nn.Module]:
        """S1 and S2."""
        return self.student1, self.student2

    @property
    def teachers(self) -> tuple[nn.Module, nn.Module]:
        """T1 and T2."""
        return self.teacher1, self.teacher2

    @property
    def predict_on(self) -> str:
        """Network that predicts at test time."""
        return self.semi_test_cfg['predict_on']

    @predict_on.setter
    def predict_on(self, name: str) -> None:
        if name not in PREDICT_ON:
            raise ValueError(
                f'semi_test_cfg.predict_on={name!r} is unknown; choose one of {list(PREDICT_ON)}'
            )
        self.semi_test_cfg['predict_on'] = name

    def train(self, mode: bool = True) -> 'CycleSelfTraining':
        """Set the mode of the students; teachers are always in eval mode."""
        super().train(mode)
        for teacher in self.teachers:
            teacher.eval()
        return self

    def loss(
        self, multi_batch_inputs: dict[str, Tensor], multi_batch_data_samples: dict[str, list]
    ) -> dict[str, Tensor]:
        """Losses of both students, keys ``student1_sup_…``, ``student1_unsup_…`` and so on.

        Also returns diagnostics whose keys lack "loss": ``dcr/weight_spread``, ``dcr/js_mean``,
        ``dcr/agreement``, ``pseudo/teacher1`` and ``pseudo/teacher2`` (boxes per image).
        """
        pseudo: list | None = None
        statistics: dict[str, Tensor] = {}
        self._count_labelled(multi_batch_data_samples)
        if self.unsup_scale != 0:
            pseudo, statistics = self.pseudo_instances(
                multi_batch_inputs['unsup_teacher'], multi_batch_data_samples['unsup_teacher']
            )
        supervised: dict[str, Tensor] = {}
        unsupervised: dict[str, Tensor] = {}
        for index, student in enumerate(self.students, 1):
            inputs, samples = self._branch(
                'sup', index, multi_batch_inputs, multi_batch_data_samples
            )
            part = student.loss(inputs, [sample.clone() for sample in samples])
            part = reweight_loss_dict(part, self.semi_train_cfg['sup_weight'])
            part = rename_loss_dict(f'student{index}_sup_', part)
            extra: dict[str, Tensor] = {}
            if pseudo is not None:
                inputs, samples = self._branch(
                    'unsup_student', index, multi_batch_inputs, multi_batch_data_samples
                )
                # The cycle: S1 (index 1) learns from T2 (pseudo[1]), S2 from T1 (pseudo[0]).
                labels = self._half(index, pseudo[2 - index])
                extra = self._unsupervised(student, inputs, self.project(labels, samples))
                extra = rename_loss_dict(f'student{index}_unsup_', extra)
            if self.semi_train_cfg['sequential_backward'] and student is self.student1:
                total, _ = self.parse_losses({**part, **extra})
                trained = [p for p in student.parameters() if p.requires_grad]
                part, extra = freed(early_backward(total, trained), part, extra)
            supervised.update(part)
            unsupervised.update(extra)
        return {**supervised, **statistics, **unsupervised}

    def _unsupervised(
        self, student: nn.Module, inputs: Tensor, targets: list[DetDataSample]
    ) -> dict[str, Tensor]:
        weight = self.semi_train_cfg['unsup_weight'] * self.unsup_scale
        if not any(len(target.gt_instances) for target in targets):
            # Keep the graph: under DDP every parameter takes part in every step.
            weight = 0.0
        return reweight_loss_dict(student.loss(inputs, targets), weight)

    @torch.no_grad()
    def pseudo_instances(
        self, inputs: Tensor, data_samples: list[DetDataSample]
    ) -> tuple[list[list[InstanceData]], dict[str, Tensor]]:
        """Weighted pseudo-labels of both teachers.

        Args:
            inputs: Weak view, shape (N, C, H, W).
            data_samples: Its N samples, with ``homography_matrix``.

        Returns:
            For each teacher N ``InstanceData`` with ``bboxes`` in the coordinates of the original
            image, ``labels``, ``scores`` and ``weights`` (0: an ignore region); and diagnostics.
        """
        asked = self._asked(len(data_samples))
        found = [
            self._found(teacher, inputs, data_samples, images)
            for teacher, images in zip(self.teachers, asked, strict=True)
        ]
        if self.semi_train_cfg['score_thr'] in COUNTED:
            for thresholds, own in zip(self.thresholds, found, strict=True):
                thresholds.count_found(
                    [(each.scores[each.first], each.labels[each.first]) for each in own]
                )
        kept = [
            [self._keep(each, limits) for each in own]
            for own, limits in zip(found, map(self._limits, range(2)), strict=True)
        ]  # fmt: skip
        divergences = []
        for own, other, instances in ((found[0], found[1], kept[0]), (found[1], found[0], kept[1])):
            if self.consistency.needs_weights:
                divergences.append(self._reweigh(instances, own, other))
            else:
                for each in instances:
                    each.weights = (~each.ignored).float()
        statistics = self._statistics(kept, divergences)
        pseudo: list[list[InstanceData]] = []
        for instances, images in zip(kept, asked, strict=True):
            every = [InstanceData() for _ in data_samples]
            for each, image in zip(instances, images, strict=True):
                sample = data_samples[image]
                each.bboxes = project_boxes(
                    each.bboxes, _homography(sample, inverse=True), sample.ori_shape
                )
                every[image] = each
            pseudo.append(every)
        return pseudo, statistics

    def _asked(self, images: int) -> list[range]:
        """Images of a batch that T1 and T2 predict on."""
        every = range(images)
        if self.consistency.needs_weights:
            return [every, every]
        # Each writes only for the other's student.
        return [self._half(2, every), self._half(1, every)]

    def _found(self, teacher, inputs, data_samples, images) -> list[InstanceData]:
        """What a teacher detects in some of the images."""
        if not len(images):
            return []
        chosen = slice(images[0], images[-1] + 1)
        predicted = teacher.predict(inputs[chosen], data_samples[chosen], rescale=False)
        return [self._sound(sample.pred_instances) for sample in predicted]

    def _sound(self, detected: InstanceData) -> InstanceData:
        """Detections in float32; ``first`` flags those that no other on their object outscores."""
        boxes = get_box_tensor(detected.bboxes).float()
        scores = detected.scores.float() ** self.semi_train_cfg['score_power']
        # A teacher of a diverged student writes NaN: no box at all is better than such a box.
        sound = torch.isfinite(boxes).all(dim=1) & torch.isfinite(scores)
        sound &= (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
        found = InstanceData(bboxes=boxes, labels=detected.labels, scores=scores)[sound]
        iou = self.semi_train_cfg['agnostic_nms_iou']
        found.first = torch.full_like(found.labels, iou is None, dtype=torch.bool)
        if iou is not None:
            found.first[nms(found.bboxes, found.scores, iou)] = True
        return found

    def _reweigh(self, instances, own, other) -> Tensor:
        """Set weights and classes of pseudo-boxes by what both teachers say; their divergence."""
        ones: list[tuple[Tensor, Tensor]] = []
        others: list[tuple[Tensor, Tensor]] = []
        for each, mine, theirs in zip(instances, own, other, strict=True):
            for found, opinions in ((mine, ones), (theirs, others)):
                opinions.append(
                    class_opinion(
                        each.bboxes, (found.bboxes, found.scores, found.labels), self.num_classes
                    )
                )
        power = self.semi_train_cfg['odds_power']
        p1 = odds_distribution(torch.cat([scores for scores, _ in ones]), power)
        p2 = odds_distribution(torch.cat([scores for scores, _ in others]), power)
        labels, doubtful = self.consistency.settle(
            torch.cat([each.labels for each in instances]), p1, p2
        )
        ignored = torch.cat([each.ignored for each in instances]) | doubtful
        weights = self.consistency(p1, p2, ~ignored)
        agreed = paired_iou(
            torch.cat([box for _, box in ones]), torch.cat([box for _, box in others])
        ).nan_to_num(nan=0.0)
        for_boxes = {'class': weights, 'iou': agreed, 'one': torch.ones_like(weights)}
        parts = (
            labels,
            ignored,
            torch.where(ignored, 0.0, weights),
            for_boxes[self.consistency.boxes],
        )
        sizes = [len(each) for each in instances]
        for each, *values in zip(instances, *(part.split(sizes) for part in parts), strict=True):
            each.labels, each.ignored, each.weights, each.box_weights = values
        return jensen_shannon(p1, p2)

    def project(
        self, pseudo: list[InstanceData], data_samples: list[DetDataSample]
    ) -> list[DetDataSample]:
        """Data samples of a strong view with pseudo-labels moved into it.

        Args:
            pseudo: N pseudo-labels in original image coordinates.
            data_samples: N samples of the view, with ``homography_matrix``.

        Returns:
            N new samples; boxes that the view leaves smaller than ``min_pseudo_bbox_wh`` are gone.
        """
        width, height = self.semi_train_cfg['min_pseudo_bbox_wh']
        targets = []
        for instances, sample in zip(pseudo, data_samples, strict=True):
            moved = instances.new()
            moved.bboxes = project_boxes(instances.bboxes, _homography(sample), sample.img_shape)
            size = moved.bboxes[:, 2:] - moved.bboxes[:, :2]
            target = sample.new()
            target.gt_instances = moved[(size[:, 0] > width) & (size[:, 1] > height)]
            targets.append(target)
        return targets

    def _limits(self, teacher: int) -> tuple[Tensor, Tensor]:
        """Least scores (C,) of a teacher's ignore regions and of its pseudo-boxes, by class."""
        cfg = self.semi_train_cfg
        if cfg['score_thr'] in COUNTED:
            thresholds = self.thresholds[teacher]
            high = thresholds()
            return thresholds(cfg['ignore_count']) if cfg['ignore_count'] else high, high
        least = cfg['score_thr'] if cfg['ignore_score_thr'] is None else cfg['ignore_score_thr']
        device = next(self.parameters()).device
        low, high = (
            torch.full((self.num_classes,), value, device=device)
            for value in (least, cfg['score_thr'])
        )
        return low, high

    def _keep(self, found: InstanceData, limits: tuple[Tensor, Tensor]) -> InstanceData:
        """The detections that become pseudo-boxes or ignore regions (field ``ignored``)."""
        low, high = limits
        kept = found[found.first & (found.scores >= low[found.labels]) & (found.scores > 0)]
        kept.ignored = kept.scores < high[kept.labels]
        del kept.first
        return kept

    def _count_labelled(self, samples: dict[str, list]) -> None:
        if self.semi_train_cfg['score_thr'] not in COUNTED:
            return
        branches = [part for name, part in samples.items() if name.startswith('sup')]
        labels = [sample.gt_instances.labels for part in branches for sample in part]
        for thresholds in self.thresholds:
            thresholds.count_labelled(labels)

    def _branch(
        self, name: str, index: int, inputs: dict[str, Tensor], samples: dict[str, list]
    ) -> tuple[Tensor, list]:
        """A student's images: of its own branch where the pipeline makes one, else the shared."""
        own = f'{name}_student{index}' if name == 'sup' else f'{name}{index}'
        key = own if own in inputs else name
        if key not in inputs:
            raise KeyError(
                f'the training pipeline has no branch {own!r} and no branch {name!r}; '
                f'it has {sorted(inputs)}'
            )
        return self._half(index, inputs[key]), self._half(index, samples[key])

    def _half(self, index: int, images: Any) -> Any:
        """Of a batch, what student ``index`` sees."""
        if not self.semi_train_cfg['split_batch']:
            return images
        middle = len(images) // 2
        return images[:middle] if index == 1 else images[middle:]

    @staticmethod
    def _statistics(kept: list[list[InstanceData]], divergences: list[Tensor]) -> dict[str, Tensor]:
        used = [[each[~each.ignored] for each in instances] for instances in kept]
        weight = torch.cat([each.weights for instances in used for each in instances])
        statistics = {
            f'pseudo/teacher{index}': weight.new_tensor(sum(map(len, instances)) / len(instances))
            for index, instances in enumerate(used, 1)
        }
        if divergences:
            counted = torch.cat([~each.ignored for instances in kept for each in instances])
            js = torch.cat(divergences)[counted]
            if len(js):
                statistics['dcr/js_mean'] = js.mean()
                statistics['dcr/weight_spread'] = weight.std(unbiased=False)
            agreed = [_agreement(a, b) for a, b in zip(*used, strict=True)]
            if any(map(len, agreed)):
                statistics['dcr/agreement'] = torch.cat(agreed).float().mean()
        return statistics

    def predict(
        self, batch_inputs: Tensor, batch_data_samples: list[DetDataSample], rescale: bool = True
    ) -> list[DetDataSample]:
        """Detections of the network that ``semi_test_cfg.predict_on`` names."""
        if self.predict_on != 'ensemble':
            network = getattr(self, self.predict_on)
            return network.predict(batch_inputs, batch_data_samples, rescale=rescale)
        first, second = (
            teacher.predict(
                batch_inputs, [sample.clone() for sample in batch_data_samples], rescale=rescale
            )
            for teacher in self.teachers
        )
        for sample, one, other in zip(batch_data_samples, first, second, strict=True):
            boxes, scores, labels = fuse_detections(
                _detections(one), _detections(other), self.semi_test_cfg['fuse_iou_thr']
            )
            sample.pred_instances = InstanceData(bboxes=boxes, scores=scores, labels=labels)
        return batch_data_samples

    def _forward(self, batch_inputs: Tensor, batch_data_samples: list | None = None):
        return self._single_network._forward(batch_inputs, batch_data_samples)

    def extract_feat(self, batch_inputs: Tensor) -> tuple[Tensor, ...]:
        """Features of the predicting network (of T1 for the ensemble)."""
        return self._single_network.extract_feat(batch_inputs)

    @property
    def _single_network(self) -> nn.Module:
        return getattr(self, 'teacher1' if self.predict_on == 'ensemble' else self.predict_on)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        """Accept checkpoints of CST, of a mean teacher or of a plain detector.

        Raises:
            ValueError: The checkpoint belongs to another architecture.
        """
        if prefix == '':
            self.teachers_loaded = translate(state_dict, NETWORKS)
            check_fit(self, state_dict)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _homography(sample: DetDataSample, inverse: bool = False) -> Tensor:
    if 'homography_matrix' not in sample:
        raise KeyError(
            'unlabelled samples need homography_matrix: add it to meta_keys of PackDetInputs'
        )
    matrix = torch.as_tensor(sample.homography_matrix, dtype=torch.float64)
    return matrix.inverse() if inverse else matrix


def _agreement(first: InstanceData, second: InstanceData) -> Tensor:
    """For each box of either side: has the other one of the same class with IoU over 0.5?"""
    match = cross_iou(first.bboxes, second.bboxes) > 0.5
    match &= first.labels[:, None] == second.labels[None, :]
    return torch.cat([match.any(dim=1), match.any(dim=0)])


def _detections(sample: DetDataSample) -> tuple[Tensor, Tensor, Tensor]:
    found = sample.pred_instances
    return get_box_tensor(found.bboxes), found.scores, found.labels
