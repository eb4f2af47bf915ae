"""Names and shapes of a network's weights as a tree, and the stages that such a tree holds."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Literal, NamedTuple

from torch import Tensor

from yolov6_ignite.errors import ConfigError
from yolov6_ignite.models.csp import branch_depths

__all__ = ["FoundStage", "WeightShapes", "read_stage", "require_equal"]


class WeightShapes:
    """Names and shapes by module path; only shapes are read, so tensors on the meta device do.

    Args:
        state: weights by name, as in a state dict.
    """

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self._shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
        self._children: dict[str, dict[str, None]] = {}  # of a path: their names, in order
        for key in self._shapes:
            parent = ""
            for name in key.split("."):
                self._children.setdefault(parent, {})[name] = None
                parent = f"{parent}.{name}" if parent else name

    def __contains__(self, key: str) -> bool:
        return key in self._shapes

    def children(self, path: str) -> Collection[str]:
        """Names directly below a path; none where there is no such path."""
        return self._children.get(path, {}).keys()

    def require_children(self, path: str, names: Iterable[str]) -> None:
        """Refuses a module that lacks one of its parts, or has others."""
        expected, found = set(names), set(self.children(path))
        prefix = f"{path}." if path else ""
        for name in sorted(expected - found):
            raise ConfigError(f"{prefix}{name}: is missing")
        for name in sorted(found - expected):
            raise ConfigError(f"{prefix}{name}: is no part of a known network")

    def count(self, path: str) -> int:
        """Entries of a sequence; 0 where there is none.

        Raises:
            ConfigError: they are not numbered from 0 without a gap.
        """
        names = self.children(path)
        if set(names) != {str(number) for number in range(len(names))}:
            raise ConfigError(f"{path}: its parts are not numbered 0 to {len(names) - 1}: {', '.join(names)}")
        return len(names)

    def conv(self, path: str) -> tuple[int, int]:
        """Output and input channels of a convolution's weight.

        Raises:
            ConfigError: there is no such weight, or it has another number of dimensions.
        """
        shape = self._shapes.get(f"{path}.weight")
        if shape is None:
            raise ConfigError(f"{path}: is missing")
        if len(shape) != 4 or 0 in shape:
            raise ConfigError(f"{path}: is no convolution (the shape of its weight is {list(shape)})")
        return shape[0], shape[1]


class FoundStage(NamedTuple):
    """Blocks of equal size in a row.

    Attributes:
        kind: RepBlock (the basic blocks alone), BepC3 or MBLABlock.
        inputs: input channels.
        outputs: output channels.
        repeats: blocks as a configuration counts them; a bottleneck counts as two.
        hidden: channels of the bottlenecks; those of the output in a RepBlock.
    """

    kind: Literal["RepBlock", "BepC3", "MBLABlock"]
    inputs: int
    outputs: int
    repeats: int
    hidden: int


def read_stage(shapes: WeightShapes, path: str, dense: str) -> FoundStage:
    """The stage at a path (specification, models 3.4).

    Args:
        shapes: all weights.
        path: of the stage.
        dense: path of the 3x3 convolution inside a basic block.

    Raises:
        ConfigError: none of the three kinds is there.
    """
    children = shapes.children(path)
    if "conv1" in children:
        outputs, inputs = shapes.conv(f"{path}.conv1.{dense}")
        return FoundStage("RepBlock", inputs, outputs, 1 + shapes.count(f"{path}.block"), outputs)
    if "cv3" in children:
        hidden, inputs = shapes.conv(f"{path}.cv1.block.conv")
        outputs, joined = shapes.conv(f"{path}.cv3.block.conv")
        require_equal(f"{path}.cv3", joined, 2 * hidden)
        require_equal(f"{path}.m", shapes.conv(f"{path}.m.conv1.conv1.{dense}")[0], hidden)
        return FoundStage("BepC3", inputs, outputs, 2 * (1 + shapes.count(f"{path}.m.block")), hidden)
    if "cv2" in children:
        depths = [shapes.count(f"{path}.m.{branch}") for branch in range(shapes.count(f"{path}.m"))]
        hidden = shapes.conv(f"{path}.m.0.0.conv1.{dense}")[0]
        if [0, *depths] != branch_depths(depths[-1]):  # the first branch is empty and has no entry
            raise ConfigError(f"{path}.m: branches of {depths} bottlenecks are not those of an MBLABlock")
        joined, inputs = shapes.conv(f"{path}.cv1.conv")
        outputs, results = shapes.conv(f"{path}.cv2.conv")
        require_equal(f"{path}.cv1", joined, (1 + len(depths)) * hidden)
        require_equal(f"{path}.cv2", results, (1 + len(depths) + sum(depths)) * hidden)
        return FoundStage("MBLABlock", inputs, outputs, 2 * depths[-1], hidden)
    raise ConfigError(f"{path}: is none of the known stages (RepBlock, BepC3, MBLABlock)")


def require_equal(path: str, found: int, expected: int) -> None:
    """Refuses channels that do not follow from those of the layers before."""
    if found != expected:
        raise ConfigError(f"{path}: has {found} channels where {expected} are expected")
