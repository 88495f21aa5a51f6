"""Score thresholds measured from what a teacher finds, for any detector and any data."""

import torch
from mmengine.dist import all_gather, all_reduce
from torch import Tensor, nn

#: Unlabelled images of this many iterations and ranks are counted, at most.
WINDOW = 256
#: Weight of a new iteration in the average of labelled boxes.
FORGET = 0.01


class CountThresholds(nn.Module):
    """Thresholds at which a teacher finds as many objects as the labelled images have (ours).

    How high a detector scores depends on its head, its losses and how long it has been trained; how
    many objects an image has does not. The threshold is the score that the best
    ``boxes per labelled image * images`` of the recent detections reach; with ``by_class`` each
    class has its own, so that none crowds out another. As the teacher gets better its scores rise,
    and the thresholds with them. What is counted stays in the checkpoint, and all ranks have the
    same.

    Args:
        num_classes: Number C of classes.
        by_class: One threshold for each class instead of one for all.
        kept: Detections of an image that are counted, at most.
    """

    def __init__(self, num_classes: int, by_class: bool, kept: int = 50) -> None:
        super().__init__()
        self.by_class = by_class
        self.kept = kept
        self.register_buffer('expected', torch.zeros(num_classes))
        self.register_buffer('iterations', torch.zeros((), dtype=torch.long))
        self.register_buffer('scores', torch.zeros(WINDOW, kept))
        self.register_buffer('labels', torch.zeros((WINDOW, kept), dtype=torch.long))
        self.register_buffer('images', torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def count_labelled(self, labels: list[Tensor]) -> None:
        """Note the classes of the boxes of labelled images, a tensor (n,) for each image."""
        found = torch.bincount(torch.cat(labels), minlength=len(self.expected)) / len(labels)
        found = found.to(self.expected)
        all_reduce(found, 'mean')
        self.iterations += 1
        self.expected.lerp_(found, torch.clamp(1 / self.iterations, min=FORGET))

    @torch.no_grad()
    def count_found(self, found: list[tuple[Tensor, Tensor]]) -> None:
        """Note scores (n,) and labels (n,) of the detections of unlabelled images."""
        scores = self.scores.new_zeros((len(found), self.kept))
        labels = self.labels.new_zeros((len(found), self.kept))
        for image, (score, label) in enumerate(found):
            best = score.argsort(descending=True)[: self.kept]
            scores[image, : len(best)], labels[image, : len(best)] = (
                score[best].float(),
                label[best],
            )
        scores, labels = torch.cat(all_gather(scores)), torch.cat(all_gather(labels))
        place = (self.images + torch.arange(len(scores), device=self.images.device)) % WINDOW
        self.scores[place], self.labels[place] = scores, labels
        self.images += len(scores)

    def forward(self, times: float = 1.0) -> Tensor:
        """Thresholds (C,) at which ``times`` as many boxes pass as the labelled images have."""
        images = self.images.clamp(max=WINDOW)
        expected = self.expected * images * times
        if not self.by_class:
            every = self.scores.flatten().sort(descending=True).values
            return _at(every, expected.sum()).expand(len(self.expected))
        ranked = [self.scores[self.labels == c].sort(descending=True).values
                  for c in range(len(self.expected))]  # fmt: skip
        return torch.stack([_at(own, n) for own, n in zip(ranked, expected, strict=True)])


def _at(ranked: Tensor, count: Tensor) -> Tensor:
    """Score that the best ``count`` reach; where there are fewer, any that was found passes."""
    index = int(count.round()) - 1
    if index < 0:
        return ranked.new_ones(())
    return ranked[index] if index < len(ranked) else ranked.new_zeros(())
