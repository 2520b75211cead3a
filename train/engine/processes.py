"""One process or several under torchrun: who we are, which device is ours, how gradients and pixels meet.

Several processes do what one does with the same batch: they start from the same networks, share out the
images of a pass and the samples of a batch, average gradients, take means over the pixels of all and pool the
pixels of the memory bank (batch norm and dropout: ``synchronised``). They must see one file system.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from cpsl_deploy.errors import TrainingError, UnavailableError

DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class Processes:
    """This process among those of the run."""

    rank: int
    world: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def share(self, length: int) -> range:
        """The indices below ``length`` that are this process's to work off."""
        return range(self.rank, length, self.world)


def require_device(device: str) -> None:
    """Raises UnavailableError for a device that is not one of ``DEVICES``, or a GPU that is not there."""
    if device not in DEVICES:
        raise UnavailableError(f"a device is one of {', '.join(DEVICES)}; got {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise UnavailableError(
            "a GPU was asked for (--device cuda) and torch sees none. Check nvidia-smi, or use --device cpu."
        )


def join(device: str = "auto") -> Processes:
    """Join the run that torchrun started, or be the only process.

    ``device``: ``cpu``, ``cuda`` or ``auto`` (a GPU if there is one). Raises UnavailableError for a GPU that
    is asked for and not there.
    """
    require_device(device)
    on_gpu = torch.cuda.is_available() and device != "cpu"
    world, local = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    if on_gpu and local >= torch.cuda.device_count():
        raise UnavailableError(
            f"torchrun started process {local} and there are {torch.cuda.device_count()} GPUs. "
            "Lower --nproc-per-node."
        )
    here = torch.device("cuda", local) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(here)
    if world > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if on_gpu else "gloo")
    return Processes(int(os.environ.get("RANK", "0")) if world > 1 else 0, world, here)


@contextlib.contextmanager
def joined(device: str = "auto") -> Iterator[Processes]:
    """``join`` for the length of a block; a process group that was formed for it is left at its end.

    Raises TrainingError where the block cannot go on because another process has ended.
    """
    was_formed = _is_distributed()
    processes = join(device)
    try:
        yield processes
    except RuntimeError as error:
        if processes.world == 1 or not _is_of_connection(error):
            raise
        raise TrainingError(
            "another process of this run has ended, and none goes on without it. The reason is in its own "
            "message; when it is removed, go on with --resume."
        ) from error
    # Not after an error: the other processes may be waiting for this one, and it ends with its error.
    if not was_formed and _is_distributed():
        dist.destroy_process_group()


@contextlib.contextmanager
def first_before_others(processes: Processes) -> Iterator[None]:
    """The first process goes through the block, then the others: for what is made once and then found."""
    if not processes.is_first:
        barrier(processes)
    yield
    if processes.is_first:
        barrier(processes)


def barrier(processes: Processes) -> None:
    if processes.world > 1:
        dist.barrier()


def any_process(flag: bool, processes: Processes) -> bool:
    """Whether the flag is set in one process or more: the same answer in all of them."""
    if processes.world == 1:
        return flag
    asked = torch.tensor([int(flag)], device=processes.device)
    dist.all_reduce(asked, dist.ReduceOp.MAX)
    return bool(asked.item())


def mean_over_processes(value: torch.Tensor, processes: Processes) -> torch.Tensor:
    """The mean of a tensor over all processes."""
    if processes.world > 1:
        value = value.clone()
        dist.all_reduce(value)
        value /= processes.world
    return value


def of_all(value: Any, processes: Processes) -> list[Any]:
    """A small picklable value of every process, by rank."""
    if processes.world == 1:
        return [value]
    values: list[Any] = [None] * processes.world
    dist.all_gather_object(values, value)
    return values


def summed(value: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor over all processes; the same tensor without torchrun."""
    if _is_distributed():
        value = value.clone()
        dist.all_reduce(value)
    return value


def gathered(rows: torch.Tensor) -> torch.Tensor:
    """Rows (n, ...) of all processes one after the other: (world * n, ...), or the same without torchrun."""
    if not _is_distributed():
        return rows
    parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


def own_part(rows: torch.Tensor) -> torch.Tensor:
    """Of rows in the order of ``gathered``, (world * n, ...), those that this process gave, (n, ...)."""
    return rows.chunk(dist.get_world_size())[dist.get_rank()] if _is_distributed() else rows


def mean_of_all(total: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    """``total / count`` with both summed over all processes, 0 for a count of 0: this process's part of it.

    The parts average to the mean, as DistributedDataParallel averages their gradients. If every process took
    the mean over its own count, pixels would weigh the more the fewer of them its part of the batch has.
    """
    if not _is_distributed():
        return total / count.clamp(min=1)
    return total * (dist.get_world_size() / summed(count).clamp(min=1))


def sample_generators(count: int, generator: torch.Generator) -> list[torch.Generator]:
    """A generator for each of this process's ``count`` samples, seeded by ``generator``, which is in the same
    state in all processes: a sample meets the same random numbers however the batch is shared out.
    """
    world = dist.get_world_size() if _is_distributed() else 1
    seeds = torch.randint(2**62, (world * count,), generator=generator)
    return [torch.Generator().manual_seed(int(seed)) for seed in own_part(seeds)]


@torch.no_grad()
def require_agreement(network: nn.Module, processes: Processes, what: str) -> None:
    """Raises TrainingError if the processes hold different networks: their gradients would mean nothing."""
    if processes.world == 1:
        return
    state = [value.double().abs().sum() for value in network.state_dict().values()]
    everywhere = gathered(torch.stack(state)[None].to(processes.device))
    if not torch.allclose(everywhere, everywhere[:1].expand_as(everywhere), rtol=1e-5, atol=1e-8):
        raise TrainingError(
            f"all processes of a run hold the same network, and after {what} theirs differ. Start every "
            "process with the same command and version; if you did, please report this with the recipe."
        )


def _is_of_connection(error: RuntimeError) -> bool:
    """Whether an error says that another process cannot be reached; gloo's have no class of their own."""
    return isinstance(error, dist.DistError) or "/gloo/" in str(error)


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()
