"""One training by several processes, the ranks: each takes its share of every batch, gradients are averaged.

A loss that is a mean over samples needs nothing more. What is not, such as a statistic of the whole batch, exchanges what
it needs by ``gathered`` or ``mean_over_ranks``: then its value is that of the whole batch on every rank, its gradient is
the sum of what all ranks make of it, and so the average over ranks is the gradient that one process would have.

Without a process group, which ``together`` makes, everything here is the identity.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lewm_bench.core.errors import TrainingFailed, UserError
from lewm_bench.system.device import threads

if TYPE_CHECKING:
    from lightning_fabric import Fabric

TIMEOUT = timedelta(minutes=30)  # of an exchange between ranks; one that has died is noticed long before
GONE = "another process of this training has ended, or cannot be reached; the same command goes on from the last saved state"


class RankLost(TrainingFailed):
    """Another rank of the training is no longer there."""


@dataclass(frozen=True)
class Ranks:
    """The processes that train one model together, of which this one is number ``rank``."""

    count: int = 1
    rank: int = 0

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Ranks:
        """As torchrun has told this process; alone without it."""
        if "TORCHELASTIC_RUN_ID" not in environment:
            return ALONE
        return cls(int(environment["WORLD_SIZE"]), int(environment["RANK"]))

    @property
    def leads(self) -> bool:
        """Whether this rank writes, and speaks to the user."""
        return self.rank == 0

    def share(self, size: int) -> slice:
        """What this rank takes of ``size`` samples."""
        each = size // self.count
        return slice(self.rank * each, (self.rank + 1) * each)

    def address(self, index: int) -> tuple[int | str, ...]:
        """What addresses a stream of this rank's own for a step; that of rank 0 is the one of a process alone."""
        return (index,) if self.leads else (index, "rank", self.rank)


ALONE = Ranks()


def require_divided(batch_size: int, ranks: int) -> None:
    """Raise a UserError for a batch that ranks cannot share evenly."""
    if batch_size % ranks:
        below, above = batch_size // ranks * ranks, -(-batch_size // ranks) * ranks
        near = f"{below} or {above}" if below else f"{above}"
        raise UserError(
            f"train.batch_size is that of all {ranks} processes together, and {batch_size} is not a multiple of {ranks}; "
            f"set it to {near}, or train on another number of devices"
        )


def require_global_statistics(model: nn.Module) -> None:
    """Raise a UserError for layers that would take the statistics of one rank's share for those of the batch."""
    torchs = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    for name, module in model.named_modules():
        if type(module) in torchs:
            raise UserError(
                f"{name} is a {type(module).__name__}, whose statistics would be those of one process's share of the "
                "batch; train in one process, or use lewm_bench.agents.parts.nets.BatchNorm"
            )


# The group of processes.


@cache
def meeting() -> dist.Store:
    """Where ranks leave notes for each other, as torchrun's environment names it."""
    from torch.distributed.rendezvous import rendezvous

    store, _, _ = next(rendezvous("env://", timeout=TIMEOUT))
    return dist.PrefixStore("lewm-bench", store)


@contextmanager
def together(ranks: Ranks, device: torch.device) -> Iterator[None]:
    """The process group of a training; nothing for a process alone, or in a group already.

    Raises:
        RankLost: one of the others has gone.
    """
    if ranks.count == 1 or in_group() > 1:
        yield
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        store = dist.PrefixStore("training", meeting())
        dist.init_process_group(backend, store=store, rank=ranks.rank, world_size=ranks.count, timeout=TIMEOUT)
        yield
        dist.barrier()  # nobody hangs up while another one listens
    except RuntimeError as error:
        if is_about_others(error):
            raise RankLost(GONE) from error
        raise
    dist.destroy_process_group()  # not after an error: it may wait for those who have gone


def is_about_others(error: RuntimeError) -> bool:
    """Whether an exchange failed for what another rank does, or no longer does."""
    return isinstance(error, dist.DistError) or "gloo" in str(error).lower()


def in_group() -> int:
    """How many ranks exchange numbers now; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def make_fabric(device: torch.device, ranks: Ranks = ALONE) -> Fabric:
    """Lightning's Fabric on one device, with DDP among several ranks; ``together`` has made their group."""
    from lightning_fabric import Fabric

    one: dict[str, Any] = {
        "accelerator": device.type,
        "devices": [device.index or 0] if device.type == "cuda" else 1,
        "precision": "32-true",  # what is less is the loop's
    }
    if ranks.count == 1:
        return Fabric(**one)
    fabric = Fabric(**one, num_nodes=ranks.count, strategy=_strategy(ranks))
    with threads(None):  # it counts one process on a machine, and would take all cores
        fabric.launch()
    return fabric


def _strategy(ranks: Ranks) -> Any:
    """DDP, told that each rank is a machine of its own with one device: so any rank may have any device."""
    from lightning_fabric.plugins.environments import LightningEnvironment
    from lightning_fabric.strategies import DDPStrategy

    class Separate(LightningEnvironment):
        """Ranks as they are."""

        creates_processes_externally = True

        def local_rank(self) -> int:
            return 0

        def node_rank(self) -> int:
            return ranks.rank

        def global_rank(self) -> int:
            return ranks.rank

        def world_size(self) -> int:
            return ranks.count

    return DDPStrategy(cluster_environment=Separate())


# What ranks exchange.


def gathered(x: Tensor) -> Tensor:
    """(B, ...) of every rank, one behind the other: (ranks x B, ...), in the order of the whole batch."""
    return _Gathered.apply(x) if in_group() > 1 else x


def whole_batch(size: int) -> int:
    """How many samples the whole batch has, of which a rank has ``size``."""
    return size * in_group()


def further_on(x: Tensor, by: int) -> Tensor:
    """(B, ...): of every sample what the one ``by`` places further in the whole batch has; behind its end it begins again."""
    if in_group() == 1:
        return x.roll(-by, 0)
    everything = gathered(x)
    first = dist.get_rank() * len(x) + by
    return everything[torch.arange(first, first + len(x), device=x.device) % len(everything)]


def mean_over_ranks(x: Tensor) -> Tensor:
    """The mean of a tensor over the ranks."""
    return _Summed.apply(x) / in_group() if in_group() > 1 else x


def averaged(values: Mapping[str, float], device: torch.device) -> dict[str, float]:
    """Named numbers, their mean over the ranks."""
    if in_group() == 1:
        return dict(values)
    numbers = torch.tensor(list(values.values()), dtype=torch.float32, device=device)
    return dict(zip(values, (_sum(numbers) / in_group()).tolist(), strict=True))


def agreed(first: int, device: torch.device) -> int:
    """The step at which all ranks begin.

    Raises:
        UserError: they have read different states.
    """
    if in_group() > 1 and len(set(gathered(torch.tensor([first], device=device)).tolist())) > 1:
        raise UserError("the processes of this training read different states; give them one --cache on a shared disk")
    return first


class _Summed(torch.autograd.Function):
    """The sum over ranks; every rank's loss depends on every rank's share of it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _sum(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _sum(gradient)


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _sum(gradient).chunk(dist.get_world_size())[dist.get_rank()]


def _sum(x: Tensor) -> Tensor:
    total = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total


def environment_of(rank: int, count: int, port: int) -> dict[str, str]:
    """What torchrun would tell a rank whose meeting is at a port of this machine."""
    return {
        "TORCHELASTIC_RUN_ID": "lewm-bench",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def host_meeting(count: int) -> dist.TCPStore:
    """A meeting on this machine, at a free port, as long as what is returned is held; ``count`` ranks join it."""
    return dist.TCPStore("127.0.0.1", 0, count, is_master=True, wait_for_workers=False)


def announce(what: str, note: str) -> None:
    """Leave a note for the other ranks."""
    meeting().set(what, note)


def told(what: str) -> str:
    """The note that rank 0 leaves, waiting until it does.

    Raises:
        RankLost: it has gone.
    """
    try:
        while not meeting().check([what]):
            time.sleep(0.2)  # waiting inside of torch would keep signals from this process
        return meeting().get(what).decode()
    except RuntimeError as error:
        raise RankLost(GONE) from error


def here() -> Ranks:
    """What this process is."""
    return Ranks.of(os.environ)
