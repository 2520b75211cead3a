"""Layers that see the batch of all processes, so that several of them train as one would.

A batch norm normalises by its batch, and dropout draws a mask for it: processes with a part of the batch each
would compute something else than one process with all of it.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .processes import own_part, summed

Network = TypeVar("Network", bound=nn.Module)


def synchronise(network: Network, device: torch.device) -> Network:
    """A module of several layers with its batch norms and dropouts replaced; its parameters stay the same
    tensors.
    """
    if device.type == "cuda":
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, SynchronisedBatchNorm.of(child))
            elif isinstance(child, nn.Dropout | nn.Dropout2d):
                setattr(parent, name, SynchronisedDropout(child))
    return network


class _Mean(torch.autograd.Function):
    """The mean of a tensor over all processes; its gradient is of the sum of all processes' losses."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return summed(value) / dist.get_world_size()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return summed(gradients[0].contiguous()) / dist.get_world_size()


class SynchronisedBatchNorm(nn.BatchNorm2d):
    """Normalises by the mean and variance over the batch of all processes, which have equal parts of it.

    torch's SyncBatchNorm does this on GPUs alone.
    """

    @classmethod
    def of(cls, norm: nn.BatchNorm2d) -> SynchronisedBatchNorm:
        own = cls(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        for name, tensor in (*norm.named_parameters(), *norm.named_buffers()):
            setattr(own, name, tensor)
        return own.train(norm.training)

    def forward(self, x: Tensor) -> Tensor:
        """x: (n, C, h, w), this process's part. Same shape and dtype."""
        if not self.training:
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            exact = x.float()
            variance, mean = self._moments(exact)
            centred, scale = exact - mean[:, None, None], (variance + self.eps).rsqrt()
            if not self.affine:
                return (centred * scale[:, None, None]).to(x.dtype)
            scale = self.weight * scale
            return torch.addcmul(self.bias[:, None, None], centred, scale[:, None, None]).to(x.dtype)

    def _moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Variance and mean (C,) over all processes; the running ones follow them."""
        own_variance, own_mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
        mean: Tensor = _Mean.apply(own_mean)
        variance: Tensor = _Mean.apply(own_variance + (own_mean - mean).square())
        if self.track_running_stats:
            self._follow(mean.detach(), variance.detach(), x.numel() // x.shape[1] * dist.get_world_size())
        return variance, mean

    def _follow(self, mean: Tensor, variance: Tensor, count: int) -> None:
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance * (count / (count - 1)), momentum)


class SynchronisedDropout(nn.Module):
    """Draws the mask of the whole batch, alike in all processes, and takes this process's part of it."""

    def __init__(self, dropout: nn.Dropout | nn.Dropout2d) -> None:
        super().__init__()
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """x: (n, C, h, w), this process's part."""
        if not self.training:
            return x
        per_image = (1, 1) if isinstance(self.dropout, nn.Dropout2d) else x.shape[2:]
        whole = torch.empty(
            (len(x) * dist.get_world_size(), x.shape[1], *per_image),
            dtype=x.dtype,
            device=x.device,
            # Masks are drawn in the order of memory.
            memory_format=torch.contiguous_format if x.is_contiguous() else torch.channels_last,
        )
        return x * own_part(self.dropout(whole.fill_(1)))
