"""Each paper as functions for a training loop of your own, in plain PyTorch and without MMEngine.

The names here are thin: the mathematics is in ``functional.py`` of each plugin, and the registered
classes of MMEngine call the same code. Defaults are those of the classes. ``docs/plain_pytorch.md``
has a loop for each use.

============================================  ====================================================
paper                                         functions
============================================  ====================================================
SmoothOut (1805.07898)                        :func:`smoothout`
TernGrad (1705.07878)                         :func:`ternary_hook`
guided CW (1812.02524)                        :func:`cw_attack`
MAT (1705.09764)                              :func:`adversarial_loss`
randomized smoothing (2002.07246)             :func:`adre_loss`, :func:`certify`
Force Regularization (1703.09746)             :func:`force_`, :func:`decompose`
CST (2207.05334)                              :func:`mean_teacher_cycle`
Conv-M, domain adaptation (1703.04071)        :func:`coral`, :func:`mk_mmd`, :func:`jmmd`,
                                              :func:`reverse_gradient`,
                                              :func:`domain_cross_entropy`, :func:`entropy`
CTF-GAN (1909.11308)                          :func:`inject`, :func:`masked_l1`, :func:`turned`,
                                              :func:`rotation_loss`, :func:`hinge_disc`,
                                              :func:`hinge_gen`
MVStylizer (2005.11630)                       :func:`stylize`
============================================  ====================================================
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from mmext.attacks.adversarial import attack_mode
from mmext.attacks.gradient_attacks import AttackResult, check_images
from mmext.engine.unwrap import unwrapped
from mmext.plugins.conv_m.functional import (
    coral,
    domain_cross_entropy,
    entropy,
    jmmd,
    mk_mmd,
    reverse_gradient,
)
from mmext.plugins.cst.cycle import Cycle
from mmext.plugins.ctf_gan.functional import (
    hinge_disc,
    hinge_gen,
    inject,
    masked_l1,
    rotation_loss,
    turned,
)
from mmext.plugins.force_regularization.layers import filter_layers
from mmext.plugins.force_regularization.lowrank import decompose
from mmext.plugins.force_regularization.step import add_force_, check_force, is_decoupled
from mmext.plugins.guided_cw.functional import cw_l2
from mmext.plugins.mat.functional import (
    attack_function,
    attack_rows,
    check_strengths,
    draw_strengths,
    mixed_loss,
    normalised_weights,
)
from mmext.plugins.smoothout.functional import check_strength, fill_noise_
from mmext.plugins.smoothout.perturbation import Perturbation, select_parameters
from mmext.plugins.terngrad.comm_hook import CountingState, register_hook
from mmext.plugins.terngrad.exchange import MIN_NUMEL, Exchange

if TYPE_CHECKING:
    from mmext.plugins.mvstylizer.interfaces import (
        Frame,
        KeyFramePolicy,
        Propagation,
        Stylizer,
        Upscaler,
    )

__all__ = [
    'Certificates',
    'adre_loss',
    'adversarial_loss',
    'certify',
    'coral',
    'cw_attack',
    'decompose',
    'domain_cross_entropy',
    'entropy',
    'force_',
    'hinge_disc',
    'hinge_gen',
    'inject',
    'jmmd',
    'masked_l1',
    'mean_teacher_cycle',
    'mk_mmd',
    'reverse_gradient',
    'rotation_loss',
    'smoothout',
    'stylize',
    'ternary_hook',
    'turned',
]


@contextmanager
def smoothout(
    model: nn.Module,
    strength: float,
    *,
    adapt: str = 'none',
    distribution: str = 'uniform',
    exclude_norm: bool = True,
    exclude: Sequence[str] = (),
    generator: torch.Generator | None = None,
) -> Iterator[None]:
    """Compute the gradient of the body at weights with fresh noise.

    Put forward and backward inside, the optimizer's step after it. Each entry draws anew, so with
    gradient accumulation enter once per micro-batch. Afterwards the weights have their old bits
    again, also after an exception.

    Args:
        model: Any model; DistributedDataParallel is looked into.
        strength: ``a >= 0`` in units of the weights, for the other ``adapt`` relative to them; the
            author's example is 0.006. Multiply it by
            :func:`mmext.plugins.smoothout.functional.schedule` for a schedule.
        adapt: 'none' (SmoothOut), 'filter' (AdaSmoothOut: noise as long as ``a`` times the filter)
            or 'weight'.
        distribution: 'uniform' (paper) or 'normal'.
        exclude_norm: No noise on the parameters of normalisation layers.
        exclude: Regular expressions of names of parameters without noise.
        generator: Of the noise, on the device of the parameters; under data parallelism one for
            each rank, seeded differently. None: torch's own.

    Raises:
        ValueError: An argument is out of its range, or no parameter is left.

    Cost: one copy of the parameters; drawing the noise.

    Batch-norm statistics belong to noisy weights: ``torch.optim.swa_utils.update_bn`` renews them.

    Reference: arXiv 1805.07898; :class:`mmext.SmoothOutHook` is this in a run of MMEngine.

    Example:
        >>> import torch
        >>> from mmext.functional import smoothout
        >>> model = torch.nn.Linear(2, 1)
        >>> before = model.weight.clone()
        >>> with smoothout(model, 0.1, generator=torch.Generator().manual_seed(0)):
        ...     moved = (model.weight - before).abs().max().item()
        ...     model(torch.ones(4, 2)).mean().backward()
        >>> 0 < moved <= 0.1, torch.equal(model.weight, before)
        (True, True)
    """
    check_strength(strength)
    perturbation = Perturbation(select_parameters(model, exclude_norm, exclude))

    def fill(noise: Tensor, clean: Tensor) -> None:
        fill_noise_(noise, clean, strength, adapt, distribution, generator)

    try:
        perturbation.inject(fill if strength else None)
        yield
    finally:
        perturbation.restore()


def ternary_hook(
    ddp_model: DistributedDataParallel,
    *,
    clip_factor: float | None = 2.5,
    share_scaler: bool = True,
    min_numel: int = MIN_NUMEL,
    keep_float: Sequence[str] = (),
    transport: str = 'ternary',
    requantize: bool = False,
    error_feedback: bool = False,
    seed: int = 0,
) -> CountingState:
    """Let DistributedDataParallel exchange gradients as -1, 0 and 1 times one scaler per layer.

    Every rank calls it once, before the first forward. The loop stays as it is: ``backward`` leaves
    the unbiased mean of the ternary gradients in ``.grad``; ``no_sync`` accumulates in floats.

    Args:
        ddp_model: Model whose gradients are exchanged; on a CPU over gloo, on GPUs over NCCL.
        clip_factor: ``c`` > 0, gradients are clipped to ``c`` standard deviations of their layer
            (paper: 2.5); None: no clipping.
        share_scaler: All ranks take the largest scaler (paper); False: each has its own.
        min_numel: Layers with fewer elements stay float, >= 1; by default biases and norms of
            networks up to 2,048 wide.
        keep_float: Regular expressions of parameters that stay float; each must match one.
        transport: 'ternary', or 'auto': time steps with float32, bfloat16 and ternary gradients
            first and keep the fastest for each bucket; the logger 'mmext' says which.
        requantize: Round the sums that come back, unbiased, so that their bits stop growing with
            the ranks; matters from about 25 ranks on.
        error_feedback: Add to the next gradient what the codes left out of this one, and take the
            nearest codes instead of unbiased draws.
        seed: Of the draws, which depend on seed, rank, number of the update and layer alone.

    Returns:
        State of the hook. Keep its ``state_dict()`` in your checkpoint (that of each rank, with
        ``error_feedback``) and load it after a resume. ``sent`` is how many bytes this rank has
        sent for the last update.

    Raises:
        TypeError: ``ddp_model`` is no DistributedDataParallel, or has sparse or complex gradients.
        ValueError: An argument is out of its range.
        RuntimeError: The model has a communication hook already.

    Reference: arXiv 1705.07878; wire format and transports are ours.
    :class:`mmext.TernGradOptimWrapper` is this in a run of MMEngine.

    Example:
        >>> import torch, torch.distributed as dist
        >>> from mmext.functional import ternary_hook
        >>> dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)
        >>> model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(100, 30))
        >>> state = ternary_hook(model)
        >>> model(torch.randn(8, 100)).sum().backward()
        >>> len(model.module.weight.grad.abs().unique()) <= 2, state.update
        (True, 1)
        >>> dist.destroy_process_group()
    """
    if not isinstance(ddp_model, DistributedDataParallel):
        raise TypeError(
            f'ternary_hook needs a DistributedDataParallel, got {type(ddp_model).__name__}: wrap '
            'the model on every rank'
        )
    exchange = Exchange(
        clip_factor, share_scaler, min_numel, keep_float, transport, requantize, error_feedback
    )
    exchange.attach(ddp_model)
    state = CountingState(ddp_model, exchange, seed)
    register_hook(ddp_model, state)
    return state


def cw_attack(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    targeted: bool = False,
    steps: int = 20,
    search_steps: int = 5,
    lr: float | None = None,
    initial_const: float | None = None,
    guide: str = 'gradient',
    kappa: float = 0.0,
) -> AttackResult:
    """Find the adversarial images of least L2 distance by CW-L2, guided by gradients or plain.

    The model is in eval mode and full precision meanwhile and comes back as it was. Its inputs are
    pixels: put the normalisation into it.

    Args:
        model: Images to logits (N, K), not probabilities.
        x: Images in [0, 1], (N, C, H, W), float32 or float64.
        y: True classes, with ``targeted`` the wanted ones, int64 (N,).
        targeted: Search for images of class ``y`` instead of any class but ``y``.
        steps: Adam steps for each constant, >= 1; few, as the guide is for. CW's own code: 10000.
        search_steps: Constants tried, >= 1. CW's own code: 9.
        lr: Adam's learning rate, > 0. None: from each image with a guide, else 0.01.
        initial_const: First constant, > 0. None: from each image with a guide, else 0.001.
        guide: 'gradient' is guided CW, 'none' is CW-L2.
        kappa: Confidence in units of logits, >= 0.

    Returns:
        ``x_adv`` (N, C, H, W), ``success`` (N,), ``l2`` (N,) and what the search cost. A failed
        image is ``x`` itself, with infinite ``l2``.

    Raises:
        ValueError: An argument is out of its range, ``x`` leaves [0, 1], or the model gives
            probabilities.

    Cost: at most ``steps * search_steps`` gradients and one forward pass of each image.

    Reference: arXiv 1812.02524 (the form of the guidance is ours) and 1608.04644.

    Example:
        >>> import torch
        >>> from mmext.functional import cw_attack
        >>> model = torch.nn.Linear(2, 2, bias=False)
        >>> model.weight.data = torch.eye(2)
        >>> x, y = torch.tensor([[0.6, 0.3]]), torch.tensor([0])
        >>> result = cw_attack(model, x, y)  # the boundary is 0.3 / sqrt(2) away
        >>> result.success.tolist(), round(result.l2.item(), 2)
        ([True], 0.21)
    """
    network = unwrapped(model)
    with attack_mode(network, x.device.type):
        return cw_l2(
            network, x, y, targeted=targeted, kappa=kappa, steps=steps, search_steps=search_steps,
            lr=lr, initial_const=initial_const, guide=guide,
        )  # fmt: skip


def adversarial_loss(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    strengths: Sequence[float],
    *,
    attack: Mapping[str, Any] | None = None,
    mix: str = 'expand',
    weights: Sequence[float] | None = None,
    criterion: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Loss of mixed multi-strength adversarial training: clean images and those of every strength.

    The model is attacked in eval mode and full precision, and learns in the mode it is in;
    DistributedDataParallel is attacked without its communication.

    Args:
        model: Images to logits (N, K); the normalisation belongs into it.
        x: Images in [0, 1], (N, C, H, W).
        y: Labels, int64 (N,).
        strengths: Perturbation levels in units of ``x``, rising, in (0, 1]: ``[2 / 255, 8 / 255]``.
        attack: ``dict(type='FGSM')`` (default) or ``dict(type='PGD', steps=7)``; for more keys see
            :func:`mmext.plugins.mat.functional.attack_function`.
        mix: 'expand': each image at every strength; 'sample': each at one strength drawn by
            ``weights``, for the cost of a single one.
        weights: Of clean and of each strength, >= 0, divided by their sum; None: equal.
        criterion: Logits and labels to a scalar.
        generator: Of drawn strengths and random starts, on the CPU; under data parallelism one for
            each rank. None: torch's own.

    Returns:
        Scalar, to be differentiated.

    Raises:
        ValueError: An argument is out of its range.

    Cost with K strengths and k steps of the attack, in passes of the batch: 'expand'
    ``K (k + 1) + 1``, 'sample' at most ``k + 1``.

    Reference: arXiv 1705.09764; attack, strengths and weights are ours.

    Example:
        >>> import torch
        >>> from mmext.functional import adversarial_loss
        >>> model = torch.nn.Linear(4, 2)
        >>> x, y = torch.rand(8, 4), torch.arange(8) % 2
        >>> clean = torch.nn.functional.cross_entropy(model(x), y)
        >>> loss = adversarial_loss(model, x, y, strengths=[0.1, 0.2])
        >>> loss.requires_grad, bool(loss > clean)
        (True, True)
    """
    if mix not in ('expand', 'sample'):
        raise ValueError(f"mix={mix!r} must be 'expand' or 'sample'")
    check_strengths(strengths, (0, 1))
    check_images(x, y, (0, 1), None)
    levels = [0.0, *map(float, strengths)]
    shares = normalised_weights(weights, len(levels))
    run, network = attack_function(attack or dict(type='FGSM')), unwrapped(model)
    draws = _on_device(generator, x.device)

    def attacked(eps: Tensor) -> Tensor:
        return attack_rows(run, network, x.detach(), y, eps, draws)

    with attack_mode(network, x.device.type):
        if mix == 'sample':
            variants = [attacked(draw_strengths(len(x), levels, shares, generator).to(x))]
        else:
            variants = [attacked(x.new_full((len(x),), level)) for level in levels]
    losses = [criterion(model(images), y) for images in variants]
    return mixed_loss(losses, shares) if mix == 'expand' else losses[0]


def adre_loss(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    sigma: float,
    *,
    num_noise: int = 8,
    adre_weight: float = 0.1,
    floor: float = -10.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Risk on noisy images with the ADRE regulariser: trains a classifier for :func:`certify`.

    Args:
        model: Images to logits (N, K); the normalisation belongs into it.
        x: Images, (N, C, H, W); noise is added to them and nothing is clipped.
        y: Labels, int64 (N,).
        sigma: Standard deviation of the noise in units of ``x``, > 0.
        num_noise: Noisy copies of each image, >= 1.
        adre_weight: Weight of the regulariser (lambda), >= 0; 0 is training on noise.
        floor: Least log probability of the runner-up that the regulariser asks for, < 0.
        generator: Of the noise, on the device of ``x``; None: torch's own.

    Returns:
        Scalar, to be differentiated; may be negative.

    Raises:
        ValueError: An argument is out of its range.
        ImportError: SciPy is not installed.

    Cost: ``num_noise`` forward and backward passes of the batch at once.

    Reference: arXiv 2002.07246 by a third party's re-implementation.

    Example:
        >>> import torch
        >>> from mmext.functional import adre_loss
        >>> model, x, y = torch.nn.Linear(4, 3), torch.rand(8, 4), torch.arange(8) % 3
        >>> adre_loss(model, x, y, sigma=0.25).backward()
        >>> bool(model.weight.grad.any())
        True
    """
    smoothing = _randomized_smoothing()
    smoothing.check_sigma(sigma)
    if num_noise < 1 or adre_weight < 0:
        raise ValueError(
            f'num_noise={num_noise} must be at least 1 and adre_weight={adre_weight} not negative'
        )
    noise = torch.randn((num_noise, *x.shape), generator=generator, device=x.device, dtype=x.dtype)
    logits = model((x + sigma * noise).flatten(0, 1)).unflatten(0, (num_noise, len(x)))
    return smoothing.adre_loss(logits, y, adre_weight, floor)


class Certificates(NamedTuple):
    """What :func:`certify` says of N images.

    Attributes:
        prediction: Class of the smoothed classifier, int64 (N,); -1 where it abstains.
        radius: L2 distance within which it cannot change, in units of the images, float64 (N,);
            0 where it abstains.
    """

    prediction: Tensor
    radius: Tensor


def certify(
    model: nn.Module,
    x: Tensor,
    sigma: float,
    *,
    n0: int = 100,
    n: int = 100_000,
    alpha: float = 0.001,
    method: str = 't_certify',
    batch: int = 1024,
    images: int = 16,
    share_noise: bool = True,
    target_radius: float | None = None,
    seed: int = 0,
) -> Certificates:
    """Predict the smoothed classifier and bound the radius within which it cannot change.

    Args:
        model: Images to logits (N, K); the normalisation belongs into it.
        x: Images, (N, C, H, W), N >= 1.
        sigma: Standard deviation of the noise in units of ``x``, > 0.
        n0: Samples that choose the class, >= 1.
        n: Samples that bound it, >= 1. Radii cannot exceed what ``n`` allows: 3.8 sigma for
            100,000.
        alpha: Chance of a wrong certificate for each image, in (0, 1).
        method: 't_certify', or 'cohen' (arXiv 1902.02918).
        batch: Noisy images in a forward pass, >= 1.
        images: Images that share it, >= 1.
        share_noise: Draw noise once for all images; their certificates then depend on each other.
        target_radius: Stop sampling an image once it is certified at this radius, or once it is
            clear that it will not be; None: always ``n`` samples.
        seed: Of the noise.

    Returns:
        Predictions and radii on the CPU.

    Raises:
        ValueError: An argument is out of its range, or the model gives probabilities.
        ImportError: SciPy is not installed.

    Cost: ``n0 + n`` forward passes of each image.

    Reference: arXiv 2002.07246; what makes the certificate sound is ours.
    :class:`mmext.SmoothedClassifier` gives the same numbers.

    Example:
        >>> import torch
        >>> from mmext.functional import certify
        >>> model = torch.nn.Linear(1, 2)  # class 1 where x is above 0.5
        >>> model.weight.data, model.bias.data = torch.tensor([[-1.0], [1]]), torch.tensor([1.0, 0])
        >>> found = certify(model, torch.tensor([[0.9], [0.5]]), sigma=0.25, n=1000)
        >>> found.prediction.tolist(), bool(0.2 < found.radius[0] < 0.4)
        ([1, -1], True)
    """
    _randomized_smoothing()
    from mmext.plugins.randomized_smoothing.sampling import (
        NoiseSampler,
        Smoothing,
        certify_in_parts,
    )

    if not len(x):
        raise ValueError('x has no images to certify')
    settings = Smoothing(
        sigma=sigma, n0=n0, n=n, alpha=alpha, method=method, batch=batch, images=images,
        share_noise=share_noise, target_radius=target_radius, seed=seed,
    )  # fmt: skip
    network = unwrapped(model)

    def sampler(part: slice) -> NoiseSampler:
        keys = range(len(x))[part]
        return NoiseSampler(network, network, x[part], sigma, settings, keys)

    prediction, radius = certify_in_parts(len(x), settings, sampler)
    return Certificates(torch.from_numpy(prediction), torch.from_numpy(radius))


def force_(
    model: nn.Module,
    strength: float,
    *,
    optimizer: Optimizer | None = None,
    kind: str = 'l1',
    include: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    mode: str = 'fixed',
) -> None:
    """Pull the filters of every layer together: call it between ``backward`` and ``step``.

    For SGD the force is added to the gradients, after any clipping, as in the author's solver. Adam
    and its kin would divide it by their own statistics: name the optimizer, and the weights are
    moved by ``lr`` times the force instead, as by AdamW's weight decay. :func:`decompose` then
    finds lower ranks.

    Args:
        model: Any model; DistributedDataParallel is looked into.
        strength: Factor of the force (lambda), finite; the author has 1e-3 for LeNet with 'l1' and
            5e-5 for a CIFAR-10 network with 'l2'. Negative repels.
        optimizer: The one that steps next; only its weights are touched. None: SGD has all.
        kind: 'l1' or 'l2'.
        include: Regular expressions of convolutions and linear layers; None: all convolutions.
        exclude: Regular expressions of layers to leave alone.
        mode: 'fixed', or 'adaptive': the force is scaled to ``strength`` times the norm of the
            layer's gradient and always added to it.

    Raises:
        ValueError: An argument is out of its range, or a pattern matches no layer.

    Cost: O(N^2 D) for a layer of N filters with D weights for 'l1', O(N D) for 'l2'.

    Reference: arXiv 1703.09746 and the author's code; the form for Adam is ours.
    :class:`mmext.ForceRegularizationHook` is this in a run of MMEngine.

    Example:
        >>> import torch
        >>> from mmext.functional import force_
        >>> conv = torch.nn.Conv2d(1, 2, kernel_size=(1, 2))
        >>> conv.weight.data = torch.eye(2).reshape(2, 1, 1, 2)  # two filters at a right angle
        >>> conv.weight.grad = torch.zeros_like(conv.weight)
        >>> force_(conv, strength=0.1)
        >>> torch.optim.SGD(conv.parameters(), lr=1.0).step()
        >>> bool((conv.weight[0] * conv.weight[1]).sum() > 0)  # the angle is smaller now
        True
    """
    check_force(strength, kind, mode)
    layers = filter_layers(unwrapped(model), include, exclude)
    owners = {layer.weight: layer for layer in layers.values()}
    groups = [{'params': list(owners)}] if optimizer is None else optimizer.param_groups
    decoupled = optimizer is not None and is_decoupled(optimizer, mode)
    for group in groups:
        for weight in group['params']:
            if weight in owners:
                add_force_(weight, owners[weight], group, strength, kind, mode, decoupled)


def mean_teacher_cycle(
    student1: nn.Module, student2: nn.Module, *, momentum: float = 0.004
) -> Cycle:
    """Two students and their moving averages, each of which teaches the other student.

    The teachers start as copies. In the loop, ``teach`` gives pseudo-labels of T2 for S1 and of T1
    for S2, weighted by how far the two agree; ``update``, after the optimizer's step, moves the
    teachers; ``restart`` copies the students again where a supervised burn-in ends. Students that
    start alike and see the same views agree from the beginning and teach each other nothing.

    ``teach`` is for classifiers. For detectors, run ``teachers`` on the weak view yourself and
    weight the boxes by :func:`mmext.plugins.cst.functional.distribution_consistency`.

    Args:
        student1, student2: Networks of one task, on their device.
        momentum: Weight of the student in the average, in (0, 0.5): 0.004 is an EMA decay of 0.996.

    Returns:
        The cycle: ``students``, ``teachers``, ``teach(inputs, score_thr=0.5, kind='js')``,
        ``update()``, ``restart()``.

    Raises:
        ValueError: ``momentum`` is out of its range, or the students are one network.

    Cost: the teachers' memory and forward passes.

    Reference: arXiv 2207.05334; the measure of agreement and the thresholds are ours.
    ``mmext.CycleSelfTraining`` is this for detectors of MMDetection.

    Example:
        >>> import torch
        >>> from mmext.functional import mean_teacher_cycle
        >>> student1, student2 = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)
        >>> cycle = mean_teacher_cycle(student1, student2)
        >>> for_student1, for_student2 = cycle.teach(torch.rand(8, 4), score_thr=0.0)
        >>> labels, weights = for_student1  # what teacher 2 says, where teacher 1 agrees
        >>> labels.shape, bool((weights >= 0).all() and (weights <= 1).all())
        (torch.Size([8]), True)
        >>> _ = student1.weight.data.add_(1.0)
        >>> cycle.update()
        >>> moved = student1.weight - cycle.teachers[0].weight  # 0.4 % of the way
        >>> bool(torch.allclose(moved, torch.tensor(0.996), atol=1e-4))
        True
    """
    return Cycle(student1, student2, momentum)


def stylize(
    frames: 'Iterable[Frame]',
    style: 'Frame',
    *,
    stylizer: 'Stylizer | None' = None,
    policy: 'KeyFramePolicy | None' = None,
    propagation: 'Propagation | None' = None,
    upscaler: 'Upscaler | None' = None,
    network_side: int = 480,
    max_wait: int = 48,
    keep_statistics: bool = True,
) -> 'Iterator[Frame]':
    """Give a stream of frames the look of a picture: key frames by a network, the others by flow.

    The parts are classes of :mod:`mmext.plugins.mvstylizer`; a stylizer of your own has the two
    methods of :class:`mmext.plugins.mvstylizer.Stylizer`.

    Args:
        frames: uint8 arrays (H, W, 3) in RGB, all of one size; read as they are needed.
        style: uint8 array (H, W, 3) in RGB, any size.
        stylizer: Network of the key frames; None: ``NeuralColorMapping()`` with its shipped
            weights.
        policy: Chooses the key frames; None: ``FixedInterval()``, every 16th.
        propagation: Makes the frames between them; None: ``FlowBlend()``.
        upscaler: Brings key frames of a smaller network to size; None: ``MetaSmoothing()``.
        network_side: Longer side in pixels at which the network works, >= 32; 0: full size. Colour
            mappings always work at full size.
        max_wait: Most frames that wait for the key after them, >= 1.
        keep_statistics: Let the stylizer follow its statistics through a scene.

    Returns:
        Iterator over as many frames of the same size, in their order.

    Raises:
        ValueError: An argument is out of its range; while iterating: a frame has another size.
        TypeError: A frame is no uint8 array.
        ImportError: OpenCV is not installed.

    Reference: arXiv 2005.11630; networks, flow and policies are ours.

    Example:
        >>> import numpy as np
        >>> from mmext.functional import stylize
        >>> from mmext.plugins.mvstylizer import MKLColorTransfer
        >>> draw = np.random.default_rng(0)
        >>> frames = [draw.integers(0, 100, (48, 64, 3), dtype=np.uint8) for _ in range(3)]
        >>> style = draw.integers(100, 200, (32, 32, 3), dtype=np.uint8)
        >>> found = list(stylize(frames, style, stylizer=MKLColorTransfer()))
        >>> len(found), found[0].shape, bool(abs(found[0].mean() - style.mean()) < 1)
        (3, (48, 64, 3), True)
    """
    with _needs('stylize', 'video'):
        from mmext.plugins.mvstylizer import NeuralColorMapping, VideoStylizer
    run = VideoStylizer(
        stylizer or NeuralColorMapping(), style, policy=policy, propagation=propagation,
        upscaler=upscaler, network_side=network_side, max_wait=max_wait,
        keep_statistics=keep_statistics,
    )  # fmt: skip
    return run(frames)


def _randomized_smoothing() -> Any:
    with _needs('randomized smoothing', 'data'):
        from mmext.plugins.randomized_smoothing import functional
    return functional


@contextmanager
def _needs(what: str, extra: str) -> Iterator[None]:
    """Name the extra that has a package which an import in the body misses."""
    try:
        yield
    except ModuleNotFoundError as error:
        from mmext.compat.environment import install_command

        raise ImportError(
            f'{what} needs the package {error.name}, which is not installed: '
            f'{install_command(extra)}',
            name=error.name,
        ) from error


def _on_device(generator: torch.Generator | None, device: torch.device) -> torch.Generator | None:
    """A generator on ``device`` that continues one of the CPU."""
    if generator is None or generator.device.type == device.type:
        return generator
    seed = torch.randint(2**62, (), generator=generator).item()
    return torch.Generator(device).manual_seed(seed)
