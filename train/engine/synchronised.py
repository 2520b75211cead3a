"""Layers that see the batch of all processes, so that several of them train as one would.

A batch norm normalises by its batch, and dropout draws a mask for it: processes with a part of the batch each
would compute something else than one process with all of it.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .processes import gathered, own_part, summed

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


class _Normalised(torch.autograd.Function):
    """weight * (x - mean) / sqrt(variance + eps) + bias, by mean and variance of ``x`` in all processes.

    One message each way. Its gradient is of the sum of all processes' losses; weight and bias get this
    process's part of theirs, as all parameters do.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, eps: float
    ) -> Tensor:
        scale = (variance + eps).rsqrt()
        ctx.save_for_backward(x, weight, mean, scale)
        ctx.eps = eps
        # As in eval mode: the moments are given.
        return torch.nn.functional.batch_norm(x, mean, variance, weight, bias, training=False, eps=eps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale = ctx.saved_tensors
        gradient = gradients[0].contiguous(memory_format=_memory_format(x))
        # Both sums of its own part, as one process has them of all.
        _, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, None, None, mean, scale, True, ctx.eps, [False, True, True]
        )
        count = x.numel() // x.shape[1] * dist.get_world_size()
        means = summed(torch.stack([of_bias, of_weight])) / count
        # weight * scale * (gradient - means[0] - (x - mean) * scale * means[1]), channel by channel.
        slope = -weight * scale.square() * means[1]
        offset = -weight * scale * means[0] - slope * mean
        result = torch.addcmul(offset[:, None, None], x, slope[:, None, None])
        result.addcmul_(gradient, (weight * scale)[:, None, None])
        return result, of_weight, of_bias, None, None, None


def _memory_format(x: Tensor) -> torch.memory_format:
    last = x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


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
            variance, mean = self._moments(exact.detach())
            weight = self.weight if self.affine else torch.ones_like(mean)
            bias = self.bias if self.affine else torch.zeros_like(mean)
            return _Normalised.apply(exact, weight, bias, mean, variance, self.eps).to(x.dtype)

    def _moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Variance and mean (C,) over all processes; the running ones follow them."""
        # A batch norm's own statistics: torch.var_mean takes eight times as long of channels last.
        _, own_mean, inverse = torch.native_batch_norm(x, None, None, None, None, True, 0.0, self.eps)
        own = torch.stack([inverse.square().reciprocal() - self.eps, own_mean])
        variances, means = gathered(own[None]).unbind(dim=1)
        mean = means.mean(dim=0)
        variance = (variances + (means - mean).square()).mean(dim=0)
        if self.track_running_stats:
            self._follow(mean, variance, x.numel() // x.shape[1] * dist.get_world_size())
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
