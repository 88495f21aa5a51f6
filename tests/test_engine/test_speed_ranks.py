"""bfloat16 and channels_last in two real processes (gloo, DDP)."""

import pytest
import torch

from mmext.testing import PluginSettings, RankRuns, Trial, check_ranks, check_ranks_resume, hosts

AUTOCAST, CHANNELS_LAST = ({'type': f'mmext.{name}Hook'} for name in ('Autocast', 'ChannelsLast'))
#: Name -> overlay and hooks.
RUNS = {
    'plain': (None, []),
    'channels_last': (None, [CHANNELS_LAST]),
    'terngrad, both': ('terngrad', [AUTOCAST, CHANNELS_LAST]),
}


@pytest.fixture(scope='module')
def trials(tmp_path_factory):
    folder = tmp_path_factory.mktemp('ranks')
    runs, made = RankRuns(folder), {}
    for name, (overlay, hooks) in RUNS.items():

        def host(data, hooks=hooks):
            cfg = hosts.classifier(data)
            cfg.custom_hooks = hooks
            # DDP then never makes its buckets anew after the first iteration.
            cfg.find_unused_parameters = True
            return cfg

        made[name] = Trial(PluginSettings(name, {}, host, overlay), folder / name.replace(' ', ''))
        made[name].ranks = runs
        runs.add(made[name])
    return made


@pytest.mark.parametrize('name', [name for name in RUNS if name != 'plain'])
def test_ranks_agree_and_resume(trials, name):
    check_ranks(trials[name])
    check_ranks_resume(trials[name])


def test_gradients_of_ddp_are_those_of_the_usual_layout(trials):
    """Weights whose layout changes after DDP has been made would get gradients in wrong places."""
    plain, found = (trials[n].ranks.result(trials[n])[0] for n in ('plain', 'channels_last'))
    for name, start in plain['start'].items():
        moved, expected = found['end'][name] - start, plain['end'][name] - start
        torch.testing.assert_close(moved, expected, rtol=1e-3, atol=1e-6)
