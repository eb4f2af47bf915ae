from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yolov6_ignite.quantization.placement import connected_values
from yolov6_ignite.quantization.tracing import trace


class Flow(nn.Module):
    """Joins, an upsampling of either kind, and a change in place."""

    def __init__(self, mode: str = "nearest", *, fails: bool = False) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 1)
        self.second = nn.Conv2d(4, 4, 1, stride=2)
        self.norm = nn.BatchNorm2d(4)
        self.act = nn.ReLU(inplace=True)
        self.last = nn.Conv2d(8, 2, 1)
        self.mode = mode
        self.fails = fails

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(self.first(x)))
        upsampled = F.interpolate(self.second(x), scale_factor=2.0, mode=self.mode)
        if self.fails:
            raise RuntimeError("stopped")
        return self.last(torch.cat([x, upsampled], dim=1))


IMAGES = torch.zeros(1, 3, 8, 8)


def test_values_and_modules() -> None:
    recorded = trace(Flow(), IMAGES)
    (before,), (after,) = recorded.given["norm"], recorded.given["act"]
    assert before != after  # one tensor, but changed in place
    assert recorded.read["act"] == [before]
    assert recorded.read["second"] == [after]
    assert recorded.given["last"] == recorded.given[""]
    names = list(recorded.given)
    assert names.index("act") < names.index("")
    joins = [operation for operation in recorded.operations if operation.name == "cat"]
    assert len(joins) == 1
    assert after in joins[0].inputs
    assert recorded.read["last"] == [joins[0].output]


@pytest.mark.parametrize(("mode", "keeps"), [("nearest", True), ("bilinear", False)])
def test_what_moves_values_connects_them(mode: str, keeps: bool) -> None:
    recorded = trace(Flow(mode), IMAGES)
    groups = connected_values(recorded, [])
    (given,), (joined,), (skipped,) = recorded.given["second"], recorded.read["last"], recorded.given["act"]
    assert groups[joined] == groups[skipped]
    assert (groups.get(given, -1) == groups[joined]) == keeps
    assert recorded.given["first"][0] not in groups


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_as_before(fails: bool) -> None:
    model = Flow(fails=fails).train()
    model.norm.eval()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    if fails:
        with pytest.raises(RuntimeError, match="stopped"):
            trace(model, IMAGES)
    else:
        trace(model, IMAGES)
    assert model.training
    assert not model.norm.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
