"""Which value flows from where to where: one forward pass, recorded.

Maps are joined, split, upsampled and activated by functions as often as by modules, differently in every block and
neck. So where quantisers belong is read off a pass through the network, not off the names of its parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

__all__ = ["Operation", "Trace", "trace"]


class Operation(NamedTuple):
    """One call of a torch function that gave a tensor; `inputs` and `output` are numbers of values."""

    name: str
    inputs: tuple[int, ...]
    output: int
    keeps_values: bool


class Trace(NamedTuple):
    """A recorded pass. A tensor that is changed in place is another value from then on.

    Attributes:
        operations: in the order of the pass.
        read: name of a module -> the value of its first argument, of every call.
        given: name of a module -> the value that it returned, of every call; inner modules come before outer ones.
            Modules that give anything but one tensor are not there.
    """

    operations: list[Operation]
    read: dict[str, list[int]]
    given: dict[str, list[int]]


# Give nothing but what they were given: quantised before or after, the numbers are the same.
MOVES = frozenset(
    (
        *("cat", "concat", "stack", "chunk", "split", "unbind", "flatten", "unflatten", "reshape", "view", "permute"),
        *(
            "transpose",
            "contiguous",
            "clone",
            "getitem",
            "max_pool2d",
            "squeeze",
            "unsqueeze",
            "narrow",
            "select",
            "to",
        ),
    )
)


def trace(model: nn.Module, example: Tensor) -> Trace:
    """Records a pass of an example through a model in eval mode; the model is as before afterwards."""
    recorder = _Recorder()
    modes = [(module, module.training) for module in model.modules()]
    hooks = []
    for name, module in model.named_modules():
        hooks.append(module.register_forward_pre_hook(recorder.on_call(name)))
        hooks.append(module.register_forward_hook(recorder.on_return(name)))
    try:
        model.eval()
        with torch.no_grad(), recorder:
            model(example)
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes:
            module.training = training
    return recorder.trace


class _Recorder(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.trace = Trace([], {}, {})
        self._values: dict[int, int] = {}
        self._tensors: list[Tensor] = []  # alive, so that no other tensor gets the identity of one of them

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        inputs = tuple(self._value(tensor) for tensor in _tensors((args, kwargs)))
        result = func(*args, **kwargs)
        name = getattr(func, "__name__", "").strip("_")
        nearest = name == "interpolate" and kwargs.get("mode", args[3] if len(args) > 3 else "nearest") == "nearest"
        for tensor in _tensors(result):
            self.trace.operations.append(Operation(name, inputs, self._new_value(tensor), nearest or name in MOVES))
        return result

    def on_call(self, name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
            if args and isinstance(args[0], Tensor):
                self.trace.read.setdefault(name, []).append(self._value(args[0]))

        return hook

    def on_return(self, name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def hook(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
            if isinstance(output, Tensor):
                self.trace.given.setdefault(name, []).append(self._value(output))

        return hook

    def _value(self, tensor: Tensor) -> int:
        value = self._values.get(id(tensor))
        return self._new_value(tensor) if value is None else value

    def _new_value(self, tensor: Tensor) -> int:
        value = len(self._tensors)
        self._tensors.append(tensor)
        self._values[id(tensor)] = value
        return value


def _tensors(item: Any) -> Iterator[Tensor]:
    if isinstance(item, Tensor):
        yield item
    elif isinstance(item, (list, tuple)):
        for part in item:
            yield from _tensors(part)
    elif isinstance(item, Mapping):
        yield from _tensors(tuple(item.values()))
