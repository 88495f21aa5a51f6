"""Batch-norm statistics of the clean weights after a training."""

import pytest
import torch
from smoothout_runs import Net, Points, build, copies, equal, smooth

from mmext.plugins.smoothout import recalibrate_bn


def test_statistics_are_those_of_the_clean_weights(tmp_path):
    runner = build(tmp_path, [smooth(strength=1.0, recalibrate_bn=8)], 8)
    runner.train()
    net = runner.model
    saved = torch.load(tmp_path / 'iter_8.pth', weights_only=False)['state_dict']
    assert equal(saved, copies(net))
    # Eight batches of eight were the training; the next eight are all 64 points again.
    features = net.conv(Points().images).double()
    mean = features.mean((0, 2, 3))
    torch.testing.assert_close(net.norm.running_mean.double(), mean, rtol=1e-4, atol=1e-5)
    earlier = torch.load(tmp_path / 'iter_7.pth', weights_only=False)['state_dict']
    assert not torch.allclose(earlier['norm.running_mean'].double(), mean, rtol=0.05, atol=0.01)
    assert net.norm.momentum == 0.1 and net.training


def test_frozen_statistics_stay(tmp_path):
    class NormEval(Net):
        def train(self, mode=True):
            super().train(mode)
            self.norm.eval()
            return self

    runner = build(tmp_path, model=NormEval())
    runner.model.norm.running_mean.fill_(0.3)
    before = copies(runner.model)
    recalibrate_bn(runner.model, runner.build_dataloader(runner._train_dataloader), 3)
    assert equal(copies(runner.model), before)
    with pytest.raises(ValueError, match='batches=0'):
        recalibrate_bn(runner.model, None, 0)
