"""channels_last activations: the same training, in another layout."""

import digits
import pytest
import torch

from mmext.engine.hooks.channels_last import ChannelsLastHook
from mmext.registry import HOOKS

CHANNELS_LAST = [{'type': 'mmext.ChannelsLastHook'}]


def is_channels_last(value):
    return value.is_contiguous(memory_format=torch.channels_last)


def run(toy_runner, max_iters, hooks, watch=None, validate=False, **changes):
    made = digits.arguments(max_iters, validate)
    runner = toy_runner(max_iters, custom_hooks=hooks, **{**made, **changes})
    if watch:
        watch(runner)
    runner.train()
    return runner


def test_training_agrees_with_the_usual_layout(toy_runner):
    plain = run(toy_runner, 30, [])
    found = run(toy_runner, 30, CHANNELS_LAST)
    one, other = digits.losses(plain), digits.losses(found)
    torch.testing.assert_close(other[:10], one[:10], rtol=1e-4, atol=0)
    # Rounding grows with the steps, and it is there: the layout did change the order of the sums.
    assert (one != other).any()


def test_activations_change_and_nothing_else(toy_runner, tmp_path):
    seen = []

    def watch(runner):
        def note(module, inputs, output):
            seen.append((module.training, is_channels_last(inputs[0]), is_channels_last(output)))

        for name in digits.LAYERS[1:]:
            getattr(runner.model, name).register_forward_hook(note)

    runner = run(toy_runner, 3, CHANNELS_LAST, watch, validate=True)
    assert set(seen) == {(True, True, True), (False, True, True)}
    checkpoint = torch.load(tmp_path / 'iter_3.pth', weights_only=False)
    momenta = [state['momentum_buffer'] for state in checkpoint['optimizer']['state'].values()]
    values = [*runner.model.parameters(), *checkpoint['state_dict'].values(), *momenta]
    assert all(value.is_contiguous() for value in values)
    assert not any(module._forward_pre_hooks for module in runner.model.modules())


@pytest.mark.parametrize('stage', ['val', 'test'])
def test_evaluation_alone_uses_it_too(toy_runner, stage):
    made = digits.arguments(1, validate=True)
    given = {f'{stage}_{part}': made[f'val_{part}'] for part in ('dataloader', 'cfg', 'evaluator')}
    model, seen = made['model'], []
    model.mix.register_forward_pre_hook(lambda _, inputs: seen.append(is_channels_last(inputs[0])))
    nothing = dict.fromkeys(('train_dataloader', 'train_cfg', 'optim_wrapper', 'param_scheduler'))
    runner = toy_runner(1, custom_hooks=CHANNELS_LAST, model=model, **nothing, **given)
    getattr(runner, stage)()
    assert seen and all(seen)
    assert not model.stem._forward_pre_hooks


def test_hooks_of_a_run_that_failed_are_gone_with_the_next(toy_runner):
    def fail(runner):
        runner.model.fc.register_forward_pre_hook(lambda *_: 1 / 0)

    hook = ChannelsLastHook()
    made = digits.arguments(1)
    runner = toy_runner(1, custom_hooks=[hook], **made)
    fail(runner)
    with pytest.raises(ZeroDivisionError):
        runner.train()
    failed = runner.model.stem
    assert failed._forward_pre_hooks
    seen = []
    following = toy_runner(1, custom_hooks=[hook], **digits.arguments(1))
    following.model.mix.register_forward_pre_hook(lambda _, x: seen.append(is_channels_last(x[0])))
    following.train()
    assert seen == [True] and not failed._forward_pre_hooks


def test_single_images_pass_as_they_are(toy_runner):
    model = digits.arguments(1)['model'].eval()
    hook = ChannelsLastHook()
    image = torch.randn(1, 8, 8)
    expected = model.stem(image)
    hook._install(model)
    assert torch.equal(model.stem(image), expected)
    assert HOOKS.get('mmext.ChannelsLastHook') is ChannelsLastHook
