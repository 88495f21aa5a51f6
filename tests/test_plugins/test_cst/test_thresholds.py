"""Score thresholds that follow the number of labelled objects."""

import torch

from mmext.plugins.cst.thresholds import WINDOW, CountThresholds


def found(generator, images, high, classes=2):
    """As many detections as there are, the scores of class c below ``high[c]``."""
    labels = [torch.randint(classes, (20,), generator=generator) for _ in range(images)]
    limit = torch.tensor(high)
    return [(torch.rand(20, generator=generator) * limit[label], label) for label in labels]


def measured(by_class, high, steps=80):
    thresholds = CountThresholds(2, by_class)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        # 1 box of class 0 and .5 of class 1 an image.
        thresholds.count_labelled([torch.tensor([0, 1]), torch.tensor([0])])
        thresholds.count_found(found(generator, 8, high))
    return thresholds, found(generator, 200, high)


def passing(limits, detections):
    """Boxes of each class that pass, an image."""
    scores, labels = (torch.cat(part) for part in zip(*detections, strict=True))
    passed = scores >= limits[labels]
    return torch.bincount(labels[passed], minlength=2) / len(detections)


def test_as_many_boxes_pass_as_the_labelled_images_have_whatever_the_scores():
    for high in ([1.0, 1.0], [0.02, 0.02]):
        thresholds, detections = measured(False, high)
        assert abs(passing(thresholds(), detections).sum() - 1.5) < 0.2
        assert abs(passing(thresholds(2.0), detections).sum() - 3.0) < 0.3


def test_by_class_a_class_of_low_scores_is_not_crowded_out():
    thresholds, detections = measured(True, [1.0, 0.1])
    torch.testing.assert_close(
        passing(thresholds(), detections), torch.tensor([1.0, 0.5]), atol=0.15, rtol=0
    )
    crowded = passing(measured(False, [1.0, 0.1])[0](), detections)
    assert crowded[1] == 0


def test_old_detections_are_forgotten_and_the_state_resumes():
    thresholds, _ = measured(True, [0.3, 0.3])
    generator = torch.Generator().manual_seed(1)
    for _ in range(WINDOW // 8):
        thresholds.count_found(found(generator, 8, [1.0, 1.0]))
    assert (thresholds() > 0.8).all()
    resumed = CountThresholds(2, True)
    resumed.load_state_dict(thresholds.state_dict())
    torch.testing.assert_close(resumed(), thresholds(), rtol=0, atol=0)


def test_nothing_found_yet_and_classes_without_labels():
    thresholds = CountThresholds(3, True)
    thresholds.count_labelled([torch.tensor([0, 1])])
    thresholds.count_found([(torch.zeros(0), torch.zeros(0, dtype=torch.long))])
    # Class 2 is never labelled: nothing passes; of the others anything that is found.
    assert thresholds().tolist() == [0.0, 0.0, 1.0]
