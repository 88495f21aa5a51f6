"""SAM (arXiv 2010.01412), the two-pass method that SmoothOut is compared with; studies only."""

import torch
from mmpretrain.models import ImageClassifier
from torch.nn.modules.batchnorm import _BatchNorm

from mmext.plugins.smoothout.functional import kept


class SAMClassifier(ImageClassifier):
    """An ImageClassifier whose gradient is taken at ``w + rho g / ||g||``.

    With gradient accumulation each micro-batch climbs for itself (m-SAM). Batch-norm statistics
    come from the first pass, at the clean weights.
    """

    rho = 0.05

    def train_step(self, data, optim_wrapper):
        """Two passes, one update."""
        with optim_wrapper.optim_context(self):
            data = self.data_preprocessor(data, True)
            losses, log = self.parse_losses(self._run_forward(data, mode='loss'))
        params = [param for param in self.parameters() if param.requires_grad]
        grads = torch.autograd.grad(losses, params)
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
        norms = [m for m in self.modules() if isinstance(m, _BatchNorm)]
        momenta = [m.momentum for m in norms]
        with kept(params):
            with torch.no_grad():
                torch._foreach_add_(params, grads, alpha=(self.rho / (norm + 1e-12)).item())
            try:
                for module in norms:
                    module.momentum = 0.0
                with optim_wrapper.optim_context(self):
                    losses, _ = self.parse_losses(self._run_forward(data, mode='loss'))
                optim_wrapper.backward(optim_wrapper.scale_loss(losses))
            finally:
                for module, momentum in zip(norms, momenta, strict=True):
                    module.momentum = momentum
        if optim_wrapper.should_update():
            optim_wrapper.step()
            optim_wrapper.zero_grad()
        return log
