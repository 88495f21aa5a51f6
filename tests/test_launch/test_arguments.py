"""Misspelt arguments are found before anything is built."""

import pytest
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from mmext.launch.arguments import arguments, check_arguments


class Base:
    def __init__(self, one, *, two=2):
        pass


class Passing(Base):
    def __init__(self, *args, three=3, **kwargs):
        super().__init__(*args, **kwargs)


class Same(Passing):
    pass


class Anything:
    def __init__(self, **kwargs):
        pass


def test_arguments_of_a_class_are_its_own_and_those_it_hands_on():
    assert arguments(Base) == {'one', 'two'}
    assert arguments(Passing) == arguments(Same) == {'one', 'two', 'three'}
    assert arguments(type('Plain', (), {})) == set()
    # No parent takes what it collects, so nothing can be said.
    assert arguments(Anything) is None


@pytest.mark.parametrize(
    'cfg, said',
    [
        (
            dict(optim_wrapper=dict(optimizer={}, accumulate_counts=2)),
            "optim_wrapper: OptimWrapper has no argument 'accumulate_counts'; "
            'did you mean accumulative_counts',
        ),
        (
            dict(optim_wrapper=dict(type='mmext.TernGradOptimWrapper', optimizer={}, clip=2)),
            "optim_wrapper: TernGradOptimWrapper has no argument 'clip'; did you mean clip_",
        ),
        (
            dict(optim_wrapper=dict(critic=dict(type='OptimWrapper', optimizer={}, zzz=2))),
            r"optim_wrapper\.critic: OptimWrapper has no argument 'zzz'; it takes accumulative",
        ),
        (
            dict(custom_hooks=[dict(type='EMAHook'), dict(type='mmext.SAMHook', roh=0.1)]),
            r"custom_hooks\.1: SAMHook has no argument 'roh'; did you mean rho",
        ),
        (
            dict(default_hooks=dict(logger=dict(type='LoggerHook', intervall=1))),
            r"default_hooks\.logger: LoggerHook has no argument 'intervall'; did you mean interval",
        ),
    ],
)
def test_unknown_arguments_are_named_with_their_class(cfg, said):
    with pytest.raises(ValueError, match=said):
        check_arguments(cfg)


def test_what_is_right_or_unknown_passes():
    check_arguments({})
    check_arguments(
        dict(
            optim_wrapper=dict(
                type='AmpOptimWrapper', optimizer={}, loss_scale='dynamic', dtype='bfloat16',
                clip_grad={}, constructor='X', paramwise_cfg={},
            ),
            default_hooks=dict(logger=None, timer=dict(type='IterTimerHook', priority=48)),
            # EMAHook hands its arguments on to a model that is not its parent.
            custom_hooks=[Hook(), dict(type='EMAHook', anything=1), dict(type='Unheard', x=1)],
        )
    )  # fmt: skip


def test_names_are_looked_up_in_the_scope_of_the_config():
    @HOOKS.register_module(name='mmext_test_hook', force=True)
    class Mine(Hook):
        def __init__(self, size):
            pass

    with pytest.raises(ValueError, match="Mine has no argument 'siz'; did you mean size"):
        check_arguments(
            dict(default_scope='mmpretrain', custom_hooks=[dict(type='mmext_test_hook', siz=1)])
        )
    HOOKS.module_dict.pop('mmext_test_hook')
