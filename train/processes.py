"""One process or several under torchrun: who we are, which device is ours, how gradients meet."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist

from cpsl_deploy.errors import UnavailableError


@dataclass(frozen=True)
class Processes:
    """This process among those of the run."""

    rank: int
    world: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        return self.rank == 0


def join(device: str = "auto") -> Processes:
    """Join the run that torchrun started, or be the only process.

    ``device``: ``cpu``, ``cuda`` or ``auto`` (a GPU if there is one). Raises UnavailableError for a GPU that is asked
    for and not there.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise UnavailableError(f"a device is auto, cpu or cuda; got {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise UnavailableError("a GPU was asked for (--device cuda) and torch sees none. Check nvidia-smi, or use --device cpu.")
    on_gpu = torch.cuda.is_available() and device != "cpu"
    world, local = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    if on_gpu and local >= torch.cuda.device_count():
        raise UnavailableError(
            f"torchrun started process {local} and there are {torch.cuda.device_count()} GPUs. Lower --nproc-per-node."
        )
    here = torch.device("cuda", local) if on_gpu else torch.device("cpu")
    if world > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if on_gpu else "gloo")
    return Processes(int(os.environ.get("RANK", "0")), world, here)


def barrier(processes: Processes) -> None:
    if processes.world > 1:
        dist.barrier()


def mean_over_processes(value: torch.Tensor, processes: Processes) -> torch.Tensor:
    """The mean of a tensor over all processes."""
    if processes.world > 1:
        value = value.clone()
        dist.all_reduce(value)
        value /= processes.world
    return value


def gathered(rows: torch.Tensor) -> torch.Tensor:
    """Rows (n, ...) of all processes one after the other, (world * n, ...); the same rows without torchrun."""
    if not (dist.is_available() and dist.is_initialized()):
        return rows
    parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)
