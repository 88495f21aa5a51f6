"""Scenarios of 4 ranks, also in two groups of 2, and of 8; writes what each ended with: OUT."""

import contextlib
import sys
from pathlib import Path

import links
import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.model import MMDistributedDataParallel, MMSeparateDistributedDataParallel
from terngrad_runs import Net, batch, flat, resumed_equals_whole, step, wrapper_for
from torch import nn

import mmext  # noqa: F401
from mmext.engine import rng
from mmext.plugins.terngrad import coding
from mmext.plugins.terngrad.transport import Wire, add_up, all_gather, two_shot

N_RANKS = 4


def replica(group=None, bucket_cap_mb: float = 25.0, **net) -> MMDistributedDataParallel:
    """The same model on every rank."""
    torch.manual_seed(0)
    return MMDistributedDataParallel(
        Net(**net),
        device_ids=None,
        broadcast_buffers=False,
        bucket_cap_mb=bucket_cap_mb,
        process_group=group,
    )


def train(group, steps, scale=1.0, bucket_cap_mb=25.0, accumulate=1, width=24, **settings):
    """Model and wrapper after some updates."""
    model = replica(group, bucket_cap_mb, width=width)
    wrapper = wrapper_for(model, accumulative_counts=accumulate, **settings)
    for index in range(steps * accumulate):
        step(model, wrapper, batch(dist.get_rank(group), index), scale)
    return model, wrapper


def nan_on_one_rank(group, **settings) -> bool:
    """Whether no gradient on this rank is finite when the last rank's input is NaN."""
    model = replica(group)
    wrapper = wrapper_for(model, **settings)
    data = batch(dist.get_rank(group), 0)
    if dist.get_rank(group) == dist.get_world_size(group) - 1:
        data['inputs'][0, 0, 0, 0] = float('nan')
    with wrapper.optim_context(model):
        loss = model(**data, mode='loss')['loss']
    wrapper.backward(loss)
    return all(not parameter.grad.isfinite().any() for parameter in model.parameters())


def gradients_of_separate_parts() -> bool:
    """Whether both parts of a model with two wrappers exchange codes."""
    torch.manual_seed(0)
    net = nn.Module()
    net.first, net.second = Net(width=8), Net(width=8)
    model = MMSeparateDistributedDataParallel(net, device_ids=None)
    wrapper = wrapper_for(model.module)
    wrapper._attach(model)
    total = 0.0
    with wrapper.optim_context(model):
        for part in (model.module.first, model.module.second):
            total = total + part(**batch(dist.get_rank(), 0), mode='loss')['loss']
    wrapper.backward(total)
    return all(
        parameter.grad.abs().unique().numel() <= dist.get_world_size() + 1
        for parameter in model.parameters()
    )


def error_of(make) -> str:
    """Text of the error that ``make`` raises."""
    try:
        make()
    except (TypeError, RuntimeError, ValueError) as error:
        return f'{type(error).__name__}: {error}'
    return ''


def other_hook() -> None:
    model = replica()
    model.register_comm_hook(None, lambda state, bucket: None)
    step(model, wrapper_for(model), batch(dist.get_rank(), 0))


def without_ddp() -> None:
    model = Net()
    step(model, wrapper_for(model), batch(dist.get_rank(), 0))


def sparse() -> None:
    model = MMDistributedDataParallel(nn.Embedding(3, 2, sparse=True), device_ids=None)
    with wrapper_for(model).optim_context(model):
        pass


def virtual_in_ranks() -> None:
    model = replica()
    step(model, wrapper_for(model, virtual_workers=True), batch(dist.get_rank(), 0))


def scenarios(group, out: Path) -> dict:
    """What both group sizes go through, and what one of them is enough for."""
    small, wrapper = train(group, 4, bucket_cap_mb=0.0001)
    found = {
        'fifty': flat(train(group, 50)[0]),
        'small buckets': flat(small),
        'big bucket': flat(train(group, 4)[0]),
        'scaled': flat(train(group, 4, scale=1024.0, lr=0.05 / 1024)[0]),
        'accumulated': flat(train(group, 3, accumulate=2)[0]),
        'nan': nan_on_one_rank(group),
    }
    if dist.get_world_size(group) == N_RANKS:
        found['separate'] = gradients_of_separate_parts()
        found['fed back'] = flat(train(group, 4, error_feedback=True)[0])
        found['errors'] = {
            make.__name__: error_of(make)
            for make in (other_hook, without_ddp, sparse, virtual_in_ranks, unsaved_errors)
        }
        found['resumed'] = resumed_equals_whole(out, 'pytorch')
        found['resumed errors'] = resumed_equals_whole(
            out / 'errors', 'pytorch', hooks=['mmext.ErrorFeedbackHook'], error_feedback=True
        )
    else:
        found['logged'] = dict(wrapper.message_hub.log_scalars)
        found['warm-up'] = flat(train(group, 3, begin_iter=3)[0])
        found['kept float'] = flat(train(group, 3, keep_float=['layers'])[0])
        found['own scalers'] = flat(train(group, 4, share_scaler=False)[0])
        found['own nan'] = nan_on_one_rank(group, share_scaler=False)
        found['fed back'] = flat(train(group, 4, error_feedback=True)[0])
        found['own fed back'] = flat(train(group, 4, error_feedback=True, share_scaler=False)[0])
        found['nan fed back'] = nan_on_one_rank(group, error_feedback=True)
        found['auto'] = chosen(group)
        found |= coded_and_packed(group)
    return found


def unsaved_errors() -> None:
    """As in a Runner, which says its iteration, without the hook."""
    model = replica()
    wrapper = wrapper_for(model, error_feedback=True)
    wrapper.message_hub.update_info('iter', 0)
    step(model, wrapper, batch(dist.get_rank(), 0))


def coded_and_packed(group) -> dict:
    """Parameters and bytes with and without entropy coding, and with one rank that lacks it."""
    found = {}
    available = coding.available
    for name, has in (('coded', True), ('packed', dist.get_rank(group) == 0)):
        coding.available = lambda has=has: has
        model, wrapper = train(group, 3, width=256)
        found[name] = flat(model)
        found[f'{name} bytes'] = wrapper.exchange.sent
    coding.available = available
    model, _ = train(group, 3, width=256, share_scaler=False)
    found['coded, own scalers'] = flat(model)
    return found


def chosen(group) -> dict:
    """What 'auto' has chosen, said and saved, and whether it stays so after a resume."""
    model, wrapper = train(group, 50, transport='auto', bucket_cap_mb=0.01)
    state, ways = wrapper.state_dict(), dict(wrapper.exchange.ways)
    saved = state['terngrad']['ways'] == ways
    other = wrapper_for(model, transport='auto')
    other.load_state_dict(state)
    resumed = replica(group, 0.01)
    resumed.load_state_dict(model.state_dict())
    for index in range(3):
        step(resumed, other, batch(dist.get_rank(group), 50 + index))
    return {'ways': ways, 'layers': len(list(model.parameters())), 'resumed': other.exchange.ways,
            'saved': saved}  # fmt: skip


def sums(rank: int, out: Path) -> None:
    """All ways of adding codes, coded and packed, for several numbers of ranks and elements."""
    groups = {n: dist.new_group(list(range(n))) for n in (1, 2, 3, 8)}
    equal, rounded = [], {}
    for n_ranks, group in groups.items():
        if rank >= n_ranks:
            continue
        for numel in (0, 1, 5, 30, 200_003):
            draws = torch.Generator().manual_seed(numel)
            # Denser towards the end: shares of the ranks have codes of different lengths.
            rates = torch.linspace(0, 1, numel) * torch.rand(n_ranks, numel, generator=draws)
            signs = torch.randint(0, 2, rates.shape, generator=draws) * 2 - 1
            codes = ((rates > 0.4) * signs).to(torch.int8)
            for add, coded in ((all_gather, False), (all_gather, True), (two_shot, False),
                               (two_shot, True), (add_up, True)):  # fmt: skip
                wire = Wire(group, coded)
                found = add(codes[rank], wire)
                name = f'{add.__name__} {n_ranks} {numel} {coded}'
                equal.append((name, torch.equal(found, codes.sum(0).to(torch.int8)), wire.sent))
            if n_ranks == 8 and numel == 200_003:
                # Equal signs: the last shares have large sums, the first small ones.
                codes = (rates > 0.4).to(torch.int8)
                rounded['exact'] = codes.sum(0)
                for coded in (True, False):
                    generators = [rng.generator(0, 'test', rank, i) for i in range(24)]
                    rounded[coded] = [
                        add_up(codes[rank], Wire(group, coded), each) for each in generators
                    ]
    torch.save({'equal': equal, 'rounded': rounded}, out / f'sums{rank}.pth')


def bytes_of_a_step(group, coded: bool) -> dict:
    """Bytes on the interface and elements, for a step of a model of some size."""
    available, coding.available = coding.available, lambda: coded
    torch.manual_seed(0)
    model = MMDistributedDataParallel(
        Net(width=512), device_ids=None, broadcast_buffers=False, process_group=group
    )
    wrapper = wrapper_for(model)
    for index in range(3):
        dist.barrier(group)
        before = links.sent_bytes()
        step(model, wrapper, batch(dist.get_rank(group), index))
        dist.barrier(group)
        sent = links.sent_bytes() - before
    coding.available = available
    return {'sent': sent, 'numel': flat(model).numel()}


def run_rank(rank: int, out: Path, has_wire: bool) -> None:
    """One rank, in a process of its own."""
    pairs = [dist.new_group([0, 1]), dist.new_group([2, 3])]
    result = {}
    for group in (dist.group.WORLD, pairs[rank // 2]):
        found = scenarios(group, out)
        if has_wire:
            found['wire'] = bytes_of_a_step(group, coded=False)
            found['coded wire'] = bytes_of_a_step(group, coded=True)
        result[dist.get_world_size(group)] = found
    torch.save(result, out / f'rank{rank}.pth')


def main() -> None:
    """Import once, then fork; with real interfaces where namespaces are allowed."""
    Config.pretty_text = property(lambda cfg: repr(cfg._cfg_dict))
    out, reason = Path(sys.argv[1]), links.missing()
    (out / 'no_wire').write_text(reason)
    with contextlib.ExitStack() as stack:
        names = [] if reason else stack.enter_context(links.namespaces(N_RANKS, '1gbit'))
        links.run_ranks(run_rank, N_RANKS, names, (out, not reason), timeout=230)
    links.run_ranks(sums, 8, (), (out,), timeout=60)


if __name__ == '__main__':
    main()
