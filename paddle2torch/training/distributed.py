"""Several processes computing what one would: sums over the global batch, and its normalisation.

`accelerate` starts the processes and averages their gradients; what it leaves to do is that every loss is a ratio of
sums over the whole batch, and that batch normalisation sees all of it. With both, the number of processes changes
nothing but rounding.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from paddle2torch.model_zoo.layers import BatchNorm1d, BatchNorm2d, BatchNormHardswish, BatchNormReLU


def world_size() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


@functools.cache
def _on_the_cpu(world: Any) -> Any:
    """A group of the processes of `world` whose messages are on the CPU: asking it waits for no device."""
    return world if dist.get_backend(world) == "gloo" else dist.new_group(backend="gloo")


def total_counts(counts: Tensor) -> Tensor:
    """The sum over all processes of a tensor on the CPU, of any dtype."""
    if world_size() > 1:
        counts = counts.clone()
        dist.all_reduce(counts, group=_on_the_cpu(dist.group.WORLD))
    return counts


def largest_of_all(number: int) -> int:
    """The largest number that any process gives."""
    if world_size() == 1:
        return number
    found = torch.tensor([number])
    dist.all_reduce(found, dist.ReduceOp.MAX, group=_on_the_cpu(dist.group.WORLD))
    return int(found)


def total(x: Tensor) -> Tensor:
    """The sum of `x` over all processes. Its gradient is that of this process's own share.

    A loss made of such sums has the same value everywhere; the gradients of the processes add up to its gradient.
    """
    if world_size() == 1:
        return x
    others = x.detach().clone()
    dist.all_reduce(others)
    return x + (others - x.detach())


def mean_of_all(values: Tensor, count: int | None = None) -> Tensor:
    """The sum of the values of all processes, divided by how many they are, or by the sum of all their `count`s."""
    return total(values.sum()) / total(values.new_full((), values.numel() if count is None else count))


class SyncBatchNorm2d(BatchNorm2d):
    """Batch normalisation over the batches of all processes together, on any device (PyTorch's own needs a GPU)."""

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, C, H, W); returns the same shape. The processes may have different N, H and W."""
        if not self.training or world_size() == 1:
            # Not super(): in a class with an activation that would apply the activation, too.
            return BatchNorm2d.forward(self, x)
        with torch.no_grad():
            count = x.new_full((1,), x.numel() / x.shape[1], dtype=torch.float32)
            mean = x.sum((0, 2, 3), dtype=torch.float32) / count
            var = (x - mean.view(1, -1, 1, 1)).square().sum((0, 2, 3)) / count
        shares = [torch.empty(2 * len(mean) + 1, device=x.device) for _ in range(world_size())]
        dist.all_gather(shares, torch.cat((mean, var, count)))
        means, variances, counts = torch.stack(shares).split((len(mean), len(mean), 1), dim=1)
        weights = counts / counts.sum()
        mean = (weights * means).sum(0)
        var = (weights * (variances + (means - mean) ** 2)).sum(0)
        self.move_statistics(mean, var)
        return _Normalise.apply(x, self.weight, self.bias, mean, var, counts.sum(), self.eps)


class SyncBatchNorm1d(SyncBatchNorm2d, BatchNorm1d):
    """`BatchNorm1d` over the batches of all processes together."""

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, C, T); returns the same shape."""
        return SyncBatchNorm2d.forward(self, x.unsqueeze(-1)).squeeze(-1)


class SyncBatchNormReLU(SyncBatchNorm2d, BatchNormReLU):
    """`BatchNormReLU` over the batches of all processes together."""

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, C, H, W); returns the same shape."""
        return F.relu(SyncBatchNorm2d.forward(self, x))


class SyncBatchNormHardswish(SyncBatchNorm2d, BatchNormHardswish):
    """`BatchNormHardswish` over the batches of all processes together."""

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, C, H, W); returns the same shape."""
        return F.hardswish(SyncBatchNorm2d.forward(self, x))


class _Normalise(torch.autograd.Function):
    """Normalisation by given statistics, whose backward knows that they come from the batches of all processes."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, count: Tensor, eps: float
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, torch.rsqrt(var + eps), count)
        return F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        x, weight, mean, inverse, count = ctx.saved_tensors

        def channel(values: Tensor) -> Tensor:
            return values.to(x.dtype).view(1, -1, 1, 1)

        normalised = (x - channel(mean)) * channel(inverse)
        own = torch.stack((grad.sum((0, 2, 3)), (grad * normalised).sum((0, 2, 3)))).float()
        both = own.clone()
        dist.all_reduce(both)
        both /= count
        grad_x = channel(weight * inverse) * (grad - channel(both[0]) - normalised * channel(both[1]))
        return grad_x, own[1].to(weight.dtype), own[0].to(weight.dtype), None, None, None, None


SYNCHRONISED: dict[type[nn.Module], type[SyncBatchNorm2d]] = {
    BatchNorm2d: SyncBatchNorm2d,
    BatchNorm1d: SyncBatchNorm1d,
    BatchNormReLU: SyncBatchNormReLU,
    BatchNormHardswish: SyncBatchNormHardswish,
}


def synchronise_batch_norm(network: nn.Module) -> None:
    """Let every batch normalisation of `network` see the batches of all processes. Parameters stay the same objects."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if type(child) in SYNCHRONISED:
                assert isinstance(child, BatchNorm2d)
                assert child.momentum is not None
                with torch.device("meta"):
                    new = SYNCHRONISED[type(child)](child.num_features, child.eps, child.momentum)
                new.weight, new.bias = child.weight, child.bias
                new.running_mean, new.running_var = child.running_mean, child.running_var
                new.training = child.training
                setattr(module, name, new)
