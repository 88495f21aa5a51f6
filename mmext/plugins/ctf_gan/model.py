"""The three networks and their training step."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.dist import all_gather, all_reduce, get_rank, get_world_size
from mmengine.logging import MessageHub
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mmext.registry import MODELS

from .averaging import GeneratorAverage
from .functional import (
    ROTATIONS,
    hinge_disc,
    hinge_gen,
    masked_l1,
    rotation_accuracy,
    rotation_loss,
    shrink,
    turned,
)
from .sampling import STREAM, SamplingGAN, bare
from .settings import CtfSettings, TaskSettings, settings_of


@MODELS.register_module()
class CTFGAN(SamplingGAN):
    """GAN with conditional transferring features (arXiv 1909.11308).

    SN-GAN's projection GAN with hinge loss, a transfer network T from low-quality (LQ) to
    high-quality images whose features are injected into the generator G, and the rotation task.
    An iteration updates the discriminator D once; every ``discriminator_steps``-th updates G and T
    as well. So ``max_iters`` counts D steps.

    A batch is ``inputs=dict(img=(N, C, H, H), lq=(N, C, H, H))`` and ``data_samples`` with
    ``gt_label``, as ``mmext.PackGANInputs`` makes it, or MMPretrain's. With T, samples with
    ``is_hq=False`` train T alone, by D's judgement; without T every image counts as real.

    Args:
        generator: Config, ``mmext.SNGANGenerator``.
        discriminator: Config, ``mmext.ProjDiscriminator``.
        transfer: Config, ``mmext.TransferNet``; size and channels of the images are the
            generator's. None: no CTF, which is SN-GAN.
        data_preprocessor: By default ``mmext.GANDataPreprocessor``.
        discriminator_steps: D steps per G step, >= 1 (SN-GAN: 5).
        self_supervision: ``dict(disc_weight=1.0, gen_weight=0.2)``, weights of the rotation task
            (SS-GAN's); None: off.
        auxiliary_classifier: ``dict(disc_weight=1.0, gen_weight=0.2)``, weights of the task to tell
            the class, which many classes need (AC-GAN's; weights ours); None: off.
        ctf: Entries of :class:`.settings.CtfSettings` (ours).
        ema: ``dict(momentum=0.001, interval=1, start_iter=0)``, the moving average of G in G
            steps; None: off.
        test_cfg: ``dict(sample_model='ema/orig', num_fakes=1, seed=0)``: which generator makes how
            many images for each real one in validation, and the seed of their noise.
        init_cfg: Of MMEngine's BaseModel.

    Raises:
        ValueError: An argument is out of its range or the networks do not fit.

    Cost of an iteration, in passes of N images: D 2 N, with the rotation task 2.75 N, with T's
    adversarial loss N / 4 more; G the same again with N or 1.75 N; T N. Sampling: G and T once.

    Example:
        >>> model = dict(
        ...     type='mmext.CTFGAN',
        ...     generator=dict(type='mmext.SNGANGenerator', output_scale=32, num_classes=10),
        ...     discriminator=dict(type='mmext.ProjDiscriminator', input_scale=32, num_classes=10),
        ...     transfer=dict(type='mmext.TransferNet', scales=(8, 16)),
        ...     discriminator_steps=5,
        ...     self_supervision=dict(disc_weight=1.0, gen_weight=0.2))
    """

    bank: Tensor
    bank_count: Tensor

    def __init__(
        self,
        generator: dict,
        discriminator: dict,
        transfer: dict | None = None,
        data_preprocessor: dict | nn.Module | None = None,
        discriminator_steps: int = 1,
        self_supervision: Mapping[str, float] | None = None,
        auxiliary_classifier: Mapping[str, float] | None = None,
        ctf: Mapping[str, Any] | None = None,
        ema: Mapping[str, Any] | None = None,
        test_cfg: Mapping[str, Any] | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(
            data_preprocessor or dict(type='mmext.GANDataPreprocessor'), test_cfg, init_cfg
        )
        if discriminator_steps < 1:
            raise ValueError(f'discriminator_steps={discriminator_steps} must be at least 1')
        self.discriminator_steps = discriminator_steps
        self.ctf = settings_of(CtfSettings, ctf or {}, 'ctf')
        self.ssl: TaskSettings | None = None
        if self_supervision is not None:
            self.ssl = settings_of(TaskSettings, self_supervision, 'self_supervision')
            discriminator = {**discriminator, 'rotation': True}
        self.ac: TaskSettings | None = None
        if auxiliary_classifier is not None:
            self.ac = settings_of(TaskSettings, auxiliary_classifier, 'auxiliary_classifier')
            discriminator = {**discriminator, 'auxiliary': True}
        self.generator = MODELS.build(generator)
        self.discriminator = MODELS.build(discriminator)
        self.num_classes = self.generator.num_classes
        for what, made, judged in (
            ('pixels', self.generator.output_scale, self.discriminator.input_scale),
            ('channels', self.generator.out_channels, self.discriminator.input_channels),
            ('classes', self.num_classes, self.discriminator.num_classes),
        ):
            if made != judged:
                raise ValueError(f'generator and discriminator differ: {made} and {judged} {what}')
        self.transfer: nn.Module | None = None
        if transfer is not None and self.ctf.ctf_source != 'none':
            size = dict(
                output_scale=self.generator.output_scale, in_channels=self.generator.out_channels
            )
            self.transfer = MODELS.build({**transfer, **size})
            self._connect(self.transfer)
        self.generator_ema: GeneratorAverage | None = None
        if ema is not None:
            kind = {key: value for key, value in ema.items() if key != 'type'}
            self.generator_ema = GeneratorAverage(self.generator, **kind)
        self._register_state_dict_hook(_without_wrappers)

    def _connect(self, transfer: nn.Module) -> None:
        from_stage = self.ctf.ctf_source == 'generated'
        self.generator.add_injections(transfer.channels, from_stage)
        if not from_stage:
            classes, size = max(self.num_classes, 1), self.generator.output_scale
            shape = classes, self.ctf.bank_size, self.generator.out_channels, size, size
            self.register_buffer('bank', torch.zeros(shape))
            self.register_buffer('bank_count', torch.zeros(classes, dtype=torch.long))

    def train_step(self, data: dict, optim_wrapper: Any) -> dict[str, Tensor]:
        """Update D, and G and T where it is their turn.

        Args:
            data: A batch, see the class.
            optim_wrapper: OptimWrapperDict of ``mmext.GANOptimWrapperConstructor``.

        Returns:
            To log: ``loss_disc_*``, ``loss_gen*``, ``loss_transfer_*`` as weighted,
            ``score_real``, ``score_fake``, ``rotation_accuracy``, ``class_accuracy`` of D on real
            images, ``gate_<scale>``.
        """
        batch = self._batch(self.data_preprocessor(data, True))
        hub = MessageHub.get_current_instance()
        iteration = hub.get_info('iter', 0)
        key = (hub.get_info('seed', 0) or 0, STREAM, get_rank(), iteration)
        log = self._discriminator_step(batch, optim_wrapper['discriminator'], key)
        if (iteration + 1) % self.discriminator_steps == 0:
            log |= self._generator_step(batch, optim_wrapper['generator'], key)
            if self.transfer is not None:
                log |= self._transfer_step(batch, optim_wrapper['transfer'])
            self._share_buffers()
            if self.generator_ema is not None and optim_wrapper['generator'].should_update():
                self.generator_ema.update_parameters(bare(self.generator))
        else:
            self._share_buffers()
        return log

    def _batch(self, data: dict) -> dict[str, Tensor]:
        """Images that count as real, and with T all images with their low-quality versions."""
        images, samples = data['inputs']['img'], data['data_samples']
        self._check_images(images)
        labels = self.labels_of(samples, images.device)
        if self.transfer is None:
            return {'real': images, 'real_label': labels}
        if 'lq' not in data['inputs']:
            raise ValueError(
                'the transfer network needs low-quality images: put mmext.Degrade and '
                'mmext.PackGANInputs into the pipeline'
            )
        good = [bool(getattr(sample, 'is_hq', True)) for sample in samples]
        if not any(good):
            raise ValueError('a batch has no high-quality image: set source_ratio of the sampler')
        is_hq = torch.tensor(good, device=images.device)
        return {
            'real': images[is_hq],
            'real_label': labels[is_hq],
            'hq': images,
            'lq': data['inputs']['lq'],
            'label': labels,
            'is_hq': is_hq,
        }

    def _discriminator_step(
        self, batch: dict[str, Tensor], wrapper: OptimWrapper, key: tuple
    ) -> dict[str, Tensor]:
        real, label = batch['real'], batch['real_label']
        count, few = len(real), _quarter(len(real))
        with wrapper.optim_context(self.discriminator):
            with torch.no_grad():
                noise, fake_label = self.draw(count, *key, 0)
                parts = [real, self.make(bare(self.generator), noise, fake_label)]
                labels = [label, fake_label]
                if self.ssl is not None:
                    parts.append(turned(real[:few]))
                    labels.append(label[:few].repeat(ROTATIONS - 1))
                judges_transfer = self.transfer is not None and self.ctf.adv_weight > 0
                if judges_transfer:
                    # From the end, where a sampler of two sources puts the unpaired images.
                    labels.append(batch['label'][-few:])
                    parts.append(bare(self.transfer)(batch['lq'][-few:], labels[-1])[0])
            # One forward: DistributedDataParallel counts each parameter once per backward.
            scores, rotation, classes = self.discriminator(torch.cat(parts), torch.cat(labels))
            on_real, on_fake = scores[:count], scores[count : 2 * count]
            loss_real, loss_fake = hinge_disc(on_real, on_fake)
            losses = {'loss_disc_real': loss_real, 'loss_disc_fake': loss_fake}
            log = {'score_real': on_real, 'score_fake': on_fake}
            if self.ssl is not None:
                end = 2 * count + (ROTATIONS - 1) * few
                logits = torch.cat([rotation[:few], rotation[2 * count : end]])
                loss = rotation_loss(logits)
                losses['loss_disc_rotation'] = self.ssl.disc_weight * loss
                log['rotation_accuracy'] = rotation_accuracy(logits)
            if self.ac is not None:
                loss = cross_entropy(classes[:count], label)
                losses['loss_disc_class'] = self.ac.disc_weight * loss
                log['class_accuracy'] = (classes[:count].argmax(1) == label).float()
            if judges_transfer:
                loss = hinge_disc(on_real, scores[-few:])[1]
                losses['loss_disc_transfer'] = self.ctf.adv_weight * loss
        return _update(wrapper, losses, log)

    def _generator_step(
        self, batch: dict[str, Tensor], wrapper: OptimWrapper, key: tuple
    ) -> dict[str, Tensor]:
        count, few = len(batch['real']), _quarter(len(batch['real']))
        discriminator = bare(self.discriminator)
        with wrapper.optim_context(self.generator), frozen(discriminator, self.transfer):
            noise, label = self.draw(count, *key, 1)
            fake, shown = self.make(self.generator, noise, label, return_lq=True)
            parts, labels = [fake], [label]
            if self.ssl is not None:
                parts.append(turned(fake[:few]))
                labels.append(label[:few].repeat(ROTATIONS - 1))
            scores, rotation, classes = discriminator(torch.cat(parts), torch.cat(labels))
            losses = {'loss_gen': hinge_gen(scores[:count])}
            if self.ssl is not None:
                loss = rotation_loss(torch.cat([rotation[:few], rotation[count:]]))
                losses['loss_gen_rotation'] = self.ssl.gen_weight * loss
            if self.ac is not None:
                loss = cross_entropy(classes[:count], label)
                losses['loss_gen_class'] = self.ac.gen_weight * loss
            if shown is not None:
                target = shrink(fake.detach(), shown.shape[-1])
                distance = (shown.float() - target.float()).abs().mean()
                losses['loss_gen_lq'] = self.ctf.lq_weight * distance
        log = {
            f'gate_{scale}': injection.gate.detach().abs()
            for scale, injection in bare(self.generator).injections.items()
        }
        return _update(wrapper, losses, log)

    def _transfer_step(self, batch: dict[str, Tensor], wrapper: OptimWrapper) -> dict[str, Tensor]:
        assert self.transfer is not None  # for type checkers
        discriminator = bare(self.discriminator)
        with wrapper.optim_context(self.transfer), frozen(discriminator):
            made = self.transfer(batch['lq'], batch['label'])[0]
            distance = masked_l1(made.float(), batch['hq'], batch['is_hq'])
            losses = {'loss_transfer_rec': self.ctf.rec_weight * distance}
            if self.ctf.adv_weight:
                scores = discriminator(made, batch['label']).scores
                losses['loss_transfer_adv'] = self.ctf.adv_weight * hinge_gen(scores)
        if self.ctf.ctf_source == 'bank':
            self._fill_bank(batch['lq'], batch['label'])
        return _update(wrapper, losses, {})

    def make(
        self, generator: nn.Module, noise: Tensor, label: Tensor, return_lq: bool = False
    ) -> Any:
        """Images of ``generator``, with transferred features if there are any."""
        if self.transfer is None:
            made = generator(noise, label)
            return (made, None) if return_lq else made
        lq = self._from_bank(noise, label) if self.ctf.ctf_source == 'bank' else None
        return generator(noise, label, transfer=bare(self.transfer), lq=lq, return_lq=return_lq)

    @torch.no_grad()
    def _fill_bank(self, images: Tensor, labels: Tensor) -> None:
        """Keep the newest low-quality images of all ranks."""
        images = torch.cat(all_gather(images.contiguous()))
        labels = torch.cat(all_gather(labels.contiguous()))
        for image, label in zip(images, labels.tolist(), strict=True):
            self.bank[label, int(self.bank_count[label]) % self.ctf.bank_size] = image
            self.bank_count[label] += 1

    def _from_bank(self, noise: Tensor, label: Tensor) -> Tensor:
        """An image of the class, chosen by the noise; grey where there is none yet."""
        count = self.bank_count[label].clamp(1, self.ctf.bank_size)
        # Of noise above 5.4 the distribution function is 1 in float32.
        place = (torch.special.ndtr(noise[:, 0]) * count).long().minimum(count - 1)
        return self.bank[label, place]

    @torch.no_grad()
    def _share_buffers(self) -> None:
        """Average the batch-norm statistics over the ranks, in one message."""
        if get_world_size() == 1:
            return
        networks = (self.generator, self.discriminator, self.transfer)
        buffers = [
            buffer
            for network in networks
            if network is not None
            for buffer in network.buffers()
            if buffer.is_floating_point()
        ]
        flat = torch.cat([buffer.reshape(-1) for buffer in buffers])
        all_reduce(flat, 'mean')
        sizes = [buffer.numel() for buffer in buffers]
        for buffer, part in zip(buffers, flat.split(sizes), strict=True):
            buffer.copy_(part.view_as(buffer))


@contextmanager
def frozen(*networks: nn.Module | None) -> Iterator[None]:
    """Let gradients flow through the networks but not into their parameters."""
    parameters = [
        parameter
        for network in networks
        if network is not None
        for parameter in network.parameters()
        if parameter.requires_grad
    ]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def _without_wrappers(model: nn.Module, state: dict, prefix: str, metadata: dict) -> None:
    """Take the names of wrappers around children out of a state dict.

    MMSeparateDistributedDataParallel puts them in, but MMEngine leaves them out when it loads: a
    checkpoint of several ranks would fit neither several ranks nor one.
    """
    for name, child in model.named_children():
        start = f'{prefix}{name}.'
        if is_model_wrapper(child):
            for key in [key for key in state if key.startswith(f'{start}module.')]:
                state[start + key.removeprefix(f'{start}module.')] = state.pop(key)


def _quarter(count: int) -> int:
    """Images that are turned: with all angles they are as many as a batch, as in SS-GAN."""
    return max(count // ROTATIONS, 1)


def _update(
    wrapper: OptimWrapper, losses: dict[str, Tensor], log: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Update the parameters of ``wrapper`` by the sum of ``losses``; return all to log."""
    wrapper.update_params(torch.stack(list(losses.values())).sum())
    return {name: value.detach().float().mean() for name, value in (losses | log).items()}
