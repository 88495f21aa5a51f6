"""Flow, propagation and key frames on clips with exactly known flow."""

import numpy as np
import pytest

from mmext.datasets.known_flow import KnownFlowClip
from mmext.datasets.photos import photo
from mmext.plugins.mvstylizer import KeyFrame, local_affine
from mmext.plugins.mvstylizer.flow import (
    DISFlow,
    forward_backward_error,
    occluded,
    resize_flow,
    warp,
)
from mmext.plugins.mvstylizer.pipeline import VideoStylizer
from mmext.registry import KEYFRAME_POLICIES, PROPAGATIONS, STYLIZERS

ALL = ('Hold', 'WarpPrevious', 'FlowBlend', 'AffinePropagation')


def psnr(made, wanted, where=None):
    error = (made.astype(np.float64) - wanted) ** 2
    error = error.mean() if where is None else error[where].mean()
    return 10 * np.log10(255**2 / max(error, 1e-9))


def grey(frame):
    return np.rint(frame @ [0.299, 0.587, 0.114]).astype(np.uint8)


@pytest.fixture(scope='module')
def clip():
    """A pan with zoom and a sprite: 24 frames of 101 x 163 pixels, odd on purpose."""
    return KnownFlowClip(
        photo('china'), (101, 163), 24, pan=(3, 1.5), zoom=1.005, start=(100, 100),
        sprite=photo('coffee')[150:190, 200:250], sprite_start=(20, 30), sprite_pan=(4, 1),
    )  # fmt: skip


@pytest.fixture(scope='module')
def styled(clip):
    """Per-frame stylisation of the clip, the same mapping everywhere."""
    return [local_affine.apply(f, local_affine.constant(LOOK, (1, 1))) for f in clip.frames]


LOOK = np.array([[0.7, 0.2, 0.0, 0.1], [0.1, 0.6, 0.1, 0.05], [0.0, 0.1, 0.9, -0.05]])


def test_an_exact_flow_warps_exactly():
    clip = KnownFlowClip(photo('china'), (60, 80), 4, pan=(4, 3))
    seen = clip.visible(0, 3)
    assert np.array_equal(warp(clip.frames[3], clip.flow(0, 3))[seen], clip.frames[0][seen])
    nothing = np.zeros((60, 80, 2), np.float32)
    assert np.array_equal(warp(clip.frames[1], nothing), clip.frames[1])
    # The border repeats, it does not go black.
    right = nothing + np.float32([1000, 0])
    assert np.array_equal(warp(clip.frames[1], right), clip.frames[1][:, -1:].repeat(80, 1))


def test_a_true_disparity_brings_the_stereo_pair_together():
    skimage = pytest.importorskip('skimage')
    from pathlib import Path

    path = Path(skimage.__file__).parent / 'data/motorcycle_disp.npz'
    disparity = np.load(path)['arr_0']
    known = np.isfinite(disparity)
    flow = np.zeros((*disparity.shape, 2), np.float32)
    flow[..., 0][known] = -disparity[known]
    left, right = photo('motorcycle_left'), photo('motorcycle_right')
    assert psnr(warp(right, flow), left, known) > psnr(right, left, known) + 7
    # A wrong sign or swapped axes lose it all.
    assert psnr(warp(right, -flow), left, known) < psnr(right, left, known) + 3


@pytest.mark.parametrize('preset, bound', [('ultrafast', 0.8), ('fast', 0.5), ('medium', 0.3)])
def test_dis_flow_finds_the_known_flow(preset, bound):
    clip = KnownFlowClip(photo('coffee'), (180, 240), 5, pan=(2, 1), zoom=1.01, start=(80, 60))
    flow = DISFlow(preset)(grey(clip.frames[1]), grey(clip.frames[4]))
    error = np.linalg.norm(flow - clip.flow(1, 4), axis=2)
    assert np.median(error[clip.visible(1, 4)]) < bound


def test_resized_flow_keeps_its_meaning():
    flow = np.ones((10, 20, 2), np.float32) * [2, 3]
    large = resize_flow(flow.astype(np.float32), (30, 40))
    assert large.shape == (30, 40, 2) and np.allclose(large, [4, 9])


def test_occlusion_is_found_where_it_is(clip):
    forward, backward = clip.flow(2, 12), clip.flow(12, 2)
    hidden = ~clip.visible(2, 12)
    found = occluded(forward, backward)
    assert found[hidden].mean() > 0.95
    # Away from motion boundaries, what is seen is not called hidden.
    assert found[~hidden].mean() < 0.2
    assert (forward_backward_error(forward, backward)[~hidden & ~clip.covered(2)] < 1).mean() > 0.9


@pytest.mark.parametrize('name', ALL)
def test_a_key_frame_is_its_own_stylised_form(clip, styled, name):
    propagation = PROPAGATIONS.build(dict(type=f'mmext.{name}'))
    key = KeyFrame(5, clip.frames[5], styled[5])
    made = propagation.propagate(clip.frames[5], 5, key)
    error = np.abs(made.astype(int) - styled[5])
    # Fitted transforms are off by rounding, and by more where the target was clipped.
    assert error.max() == 0 or name == 'AffinePropagation' and np.percentile(error, 99) <= 2


@pytest.mark.parametrize('name', ('WarpPrevious', 'FlowBlend', 'AffinePropagation'))
def test_a_still_scene_stays_still(clip, styled, name):
    propagation = PROPAGATIONS.build(dict(type=f'mmext.{name}'))
    past, future = (KeyFrame(i, clip.frames[5], styled[5]) for i in (0, 8))
    made = propagation.propagate(clip.frames[5], 3, past, future)
    assert psnr(made, styled[5]) > 45


def test_each_propagation_beats_the_cruder_one(clip, styled):
    """Mean PSNR to per-frame stylisation over a gap of 12 frames, for one fixed look."""
    found = {}
    for name in ALL:
        propagation = PROPAGATIONS.build(dict(type=f'mmext.{name}'))
        past, future = (KeyFrame(i, clip.frames[i], styled[i]) for i in (4, 16))
        found[name] = np.mean([
            psnr(propagation.propagate(clip.frames[i], i, past, future), styled[i])
            for i in (6, 10, 14)
        ])  # fmt: skip
    assert found['Hold'] + 3 < found['WarpPrevious'] < found['FlowBlend'] - 2
    assert found['FlowBlend'] < found['AffinePropagation']
    assert found['AffinePropagation'] > 38


@pytest.mark.parametrize('name', ('FlowBlend', 'AffinePropagation'))
def test_the_key_after_the_frame_counts_more_near_it(clip, name):
    """Keys with two different looks: the mixture follows the distance."""
    propagation = PROPAGATIONS.build(dict(type=f'mmext.{name}'))
    still = clip.frames[5]
    bright = np.minimum(still, 200) + 50
    past, future = KeyFrame(0, still, still), KeyFrame(8, still, bright.astype(np.uint8))
    levels = [
        propagation.propagate(still, i, past, future).astype(int).mean() - still.mean()
        for i in (2, 4, 6)
    ]
    step = bright.mean() - still.mean()
    np.testing.assert_allclose(np.array(levels) / step, [0.25, 0.5, 0.75], atol=0.06)


def test_what_no_key_shows_is_filled(clip, styled):
    """A causal blend of a hidden region follows the look, not the wrong pixels."""
    key = KeyFrame(2, clip.frames[2], styled[2])
    hidden = ~clip.visible(12, 2)
    errors = {}
    for fill in (True, False):
        propagation = PROPAGATIONS.build(dict(type='mmext.FlowBlend', fill=fill))
        made = propagation.propagate(clip.frames[12], 12, key)
        errors[fill] = psnr(made, styled[12], hidden)
    assert errors[True] > errors[False] + 5


def test_affine_propagation_takes_a_small_key(clip, styled):
    import cv2

    small = cv2.resize(styled[4], (81, 50), interpolation=cv2.INTER_AREA)
    key = KeyFrame(4, clip.frames[4], small)
    propagation = PROPAGATIONS.build(dict(type='mmext.AffinePropagation'))
    assert psnr(propagation.propagate(clip.frames[4], 4, key), styled[4]) > 38
    assert psnr(propagation.propagate(clip.frames[9], 9, key), styled[9]) > 34
    with pytest.raises(ValueError, match='upscale it, or take AffinePropagation'):
        PROPAGATIONS.build(dict(type='mmext.WarpPrevious')).propagate(clip.frames[9], 9, key)


def test_a_global_transform_needs_no_flow(clip, styled):
    propagation = PROPAGATIONS.build(dict(type='mmext.AffinePropagation', scope='global'))
    propagation.flow = None
    key = KeyFrame(0, clip.frames[0], styled[0])
    assert psnr(propagation.propagate(clip.frames[20], 20, key), styled[20]) > 38


def test_keys_that_do_not_fit_are_errors(clip, styled):
    propagation = PROPAGATIONS.build(dict(type='mmext.Hold'))
    key = KeyFrame(5, clip.frames[5], styled[5])
    with pytest.raises(ValueError, match='needs a key frame'):
        propagation.propagate(clip.frames[3], 3, None)
    with pytest.raises(ValueError, match='are not around frame 3'):
        propagation.propagate(clip.frames[3], 3, key)
    with pytest.raises(ValueError, match='has size'):
        propagation.propagate(clip.frames[6][:50], 6, key)
    with pytest.raises(TypeError, match='uint8'):
        propagation.propagate(clip.frames[6] / 255, 6, key)


def shots(lengths, size=(72, 96)):
    """Pans over several photos, one after the other."""
    names = ('china', 'coffee', 'astronaut', 'rocket', 'chelsea')
    return [
        frame
        for name, length in zip(names, lengths, strict=False)
        for frame in KnownFlowClip(photo(name), size, length, pan=(5, 2), start=(30, 40)).frames
    ]


def decisions(policy, frames):
    return [policy.decide(frame) for frame in frames]


def test_cuts_are_found_and_pans_and_flicker_are_none():
    rng = np.random.default_rng(0)
    frames = shots((20, 15, 25, 12, 18))
    frames = [np.clip(f + rng.normal(0, 4, f.shape), 0, 255).astype(np.uint8) for f in frames]
    policy = KEYFRAME_POLICIES.build(dict(type='mmext.FixedInterval', interval=1000))
    found = decisions(policy, frames)
    assert [i for i, d in enumerate(found) if d.cut] == [20, 35, 60, 72]
    assert [i for i, d in enumerate(found) if d.key] == [0, 20, 35, 60, 72]


def test_a_fixed_interval_starts_anew_at_a_cut():
    policy = KEYFRAME_POLICIES.build(dict(type='mmext.FixedInterval', interval=8))
    found = decisions(policy, shots((20, 15)))
    assert [i for i, d in enumerate(found) if d.key] == [0, 8, 16, 20, 28]
    policy.reset()
    assert policy.decide(shots((1,))[0]) == (True, False)


def test_the_residual_trigger_sets_keys_where_flow_fails():
    still = [shots((1,))[0]] * 12
    fast = KnownFlowClip(photo('coffee'), (72, 96), 12, pan=(14, 3)).frames
    policy = KEYFRAME_POLICIES.build(
        dict(type='mmext.ResidualTrigger', threshold=24, min_gap=3, max_gap=10)
    )
    found = [i for i, d in enumerate(decisions(policy, still)) if d.key]
    assert found == [0, 10]
    policy.reset()
    moving = [i for i, d in enumerate(decisions(policy, fast)) if d.key]
    assert len(moving) >= 3 and min(np.diff(moving)) >= 3


def test_residuals_tell_the_error_of_propagation(clip, styled):
    """The residual of the original key ranks the true errors of the stylised one."""
    policy = KEYFRAME_POLICIES.build(dict(type='mmext.ResidualTrigger', max_gap=1000, min_gap=999))
    propagation = PROPAGATIONS.build(dict(type='mmext.WarpPrevious'))
    key = KeyFrame(0, clip.frames[0], styled[0])
    policy.decide(clip.frames[0])
    told = [policy.residual(clip.frames[i]) for i in range(1, 20)]
    true = [psnr(propagation.propagate(clip.frames[i], i, key), styled[i]) for i in range(1, 20)]
    assert np.corrcoef(told, true)[0, 1] > 0.9


def test_a_budget_holds_but_for_cuts():
    frames = shots((60,)) + shots((0, 40))
    policy = KEYFRAME_POLICIES.build(
        dict(type='mmext.BudgetAware', budget=2, fps=20, burst=1, threshold=99, min_gap=1)
    )
    keys = [i for i, d in enumerate(decisions(policy, frames)) if d.key]
    assert 60 in keys
    gaps = np.diff([k for k in keys if k < 60])
    assert (gaps >= 9).all() and len(gaps) >= 4
    policy.reset()
    policy.observe(2.0, 1000)
    assert policy.round_trip == pytest.approx(1.0)
    slow = [i for i, d in enumerate(decisions(policy, frames[:60])) if d.key]
    # Nothing is asked for before an answer is likely back: one second, 20 frames.
    assert min(np.diff(slow)) >= 20


@pytest.mark.parametrize('name', ALL)
def test_a_stream_gives_every_frame_once_and_never_mixes_scenes(name):
    stylizer = STYLIZERS.build(dict(type='mmext.MKLColorTransfer'))
    frames = shots((19, 13))
    stylise = VideoStylizer(
        stylizer, photo('rocket'), dict(type='mmext.FixedInterval', interval=7),
        dict(type=f'mmext.{name}'), keep_statistics=False,
    )  # fmt: skip
    made = list(stylise(iter(frames)))
    assert len(made) == len(frames) and stylise.counts.cuts == 1
    assert stylise.counts.gaps == [7, 7, 5, 7]
    # Each scene is what it is on its own.
    alone = list(stylise(iter(frames[:19]))) + list(stylise(iter(frames[19:])))
    assert all(np.array_equal(a, b) for a, b in zip(made, alone, strict=True))


def test_few_frames_wait_whatever_the_policy():
    stylizer = STYLIZERS.build(dict(type='mmext.MKLColorTransfer'))
    pulled = []

    def source():
        for frame in [shots((1,))[0]] * 50:
            pulled.append(0)
            yield frame

    stylise = VideoStylizer(
        stylizer, photo('rocket'), dict(type='mmext.FixedInterval', interval=10**6),
        dict(type='mmext.AffinePropagation'), max_wait=6,
    )  # fmt: skip
    ahead = [len(pulled) - i for i, _ in enumerate(stylise(source()), 1)]
    assert max(ahead) <= 8 and len(ahead) == 50
    assert stylise.counts.forced == 7


def test_frames_of_changing_size_are_an_error():
    stylizer = STYLIZERS.build(dict(type='mmext.MKLColorTransfer'))
    frame = shots((1,))[0]
    stylise = VideoStylizer(stylizer, photo('rocket'), upscaler=dict(type='mmext.Bicubic'))
    with pytest.raises(ValueError, match='frame 1 has size'):
        list(stylise([frame, frame[:50]]))


@pytest.mark.parametrize('settings, told', [
    (dict(type='mmext.FixedInterval', interval=0), 'interval=0'),
    (dict(type='mmext.ResidualTrigger', min_gap=9, max_gap=3), 'min_gap=9'),
    (dict(type='mmext.BudgetAware', budget=0), 'budget=0'),
    (dict(type='mmext.FixedInterval', scene_cut=dict(ratio=0.5)), 'ratio=0.5'),
])  # fmt: skip
def test_policies_refuse_numbers_out_of_range(settings, told):
    with pytest.raises(ValueError, match=told):
        KEYFRAME_POLICIES.build(settings)
