"""Several objectives at once."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from yolov6_ignite.losses.terms import Items, add_by_name

__all__ = ["SumOfLosses"]


class SumOfLosses(nn.Module):
    """The sum of objectives; their terms are added by name.

    Args:
        losses: modules that are called like :class:`DetectionLoss`.
    """

    def __init__(self, *losses: nn.Module) -> None:
        super().__init__()
        self.losses = nn.ModuleList(losses)

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Items]:
        """Passes its arguments to every loss.

        Returns:
            The total to be minimised, and its weighted terms, detached.
        """
        totals, items = zip(*(loss(*args, **kwargs) for loss in self.losses), strict=True)
        return sum(totals), add_by_name(*items)
