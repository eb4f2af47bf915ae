"""What losses are divided by, whatever the number of ranks."""

from __future__ import annotations

import ignite.distributed as idist
import torch
from torch import Tensor

__all__ = ["ReferenceSums", "one_if_zero"]


class ReferenceSums:
    """Sums that one device of the recipe would see: those of all ranks, divided by the recipe's number of devices.

    Losses divided by them do not depend on how many devices there are here.

    Args:
        world_size: devices of the recipe.
        reduce_over_ranks: False takes this rank for the only one, where ranks do not run in step.
    """

    def __init__(self, world_size: int = 1, *, reduce_over_ranks: bool = True) -> None:
        self.world_size = world_size
        self.reduce_over_ranks = reduce_over_ranks

    @torch.no_grad()
    def __call__(self, *own: Tensor) -> tuple[Tensor, ...]:
        """From the 0-d sums of this rank; one collective for all of them, none on a single rank."""
        sums = torch.stack([x.float() for x in own])
        if self.reduce_over_ranks and idist.get_world_size() > 1:
            sums = torch.as_tensor(idist.all_reduce(sums))
        return (sums / self.world_size).unbind()


def one_if_zero(total: Tensor) -> Tensor:
    """The divisor of losses that are divided by a sum of target scores only if it is not 0."""
    return total.masked_fill(total == 0, 1)
