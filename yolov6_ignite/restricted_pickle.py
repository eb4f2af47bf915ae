"""Reads what ``torch.save`` pickled without being able to run anything in it.

Python's unpickler calls whatever a file names. This is an interpreter of its own for the thirty instructions that
``torch.save`` writes; it imports nothing, calls nothing that a file names, and sets no attribute of anything but a
:class:`StandIn`. A name in a file is a piece of text: one on the list of tensor-building functions selects a method
here, a class of ``yolov6.*`` or ``torch.nn.modules.*`` becomes an inert :class:`StandIn`, any other is refused.

Time and memory grow linearly with the file: tensors are views into storages that are in the file, keys are text or
integers (the hash of a nested tuple can take exponential time), and the number of instructions is bounded.
"""

from __future__ import annotations

import math
import pickletools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from yolov6_ignite.torch_archive import TorchArchive, open_torch_archive, refuse

__all__ = ["StandIn", "is_readable", "read_archive"]

MAX_INSTRUCTIONS = 4_000_000  # a released file has at most 0.2 million, a checkpoint after 5,000 epochs 0.5
MAX_DIMENSIONS = 8

STORAGES = {
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.FloatStorage": torch.float32,
    "torch.DoubleStorage": torch.float64,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}
# Values beside the weights: a shape or device that a module keeps, and numpy's form of a validation result.
INERT_NAMES = {
    "torch.Size",
    "torch.device",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
    "_codecs.encode",
}
INERT_CLASS = re.compile(
    r"(?:yolov6(?:\.[a-z_][a-z0-9_]{0,63}){1,4}|torch\.nn\.modules\.[a-z_]{1,64})\.[A-Z][A-Za-z0-9_]{0,63}"
)


class StandIn:
    """What stands for an object of a class that is not to be run.

    Attributes:
        class_name: the class that the file names, as ``yolov6.layers.common.ConvModule``.
        state: what the file would have set its attributes from; None when it says nothing.
    """

    __slots__ = ("class_name", "state")

    def __init__(self, class_name: str) -> None:
        self.class_name = class_name
        self.state: Any = None


def read_archive(path: Path) -> Any:
    """What is pickled in a torch zip file; nothing in it is run.

    Returns:
        Plain values (None, bool, int, float, str), dict, list, tuple, set of str, CPU tensors that are views of the
        file's storages, and :class:`StandIn` for every object of a class. Dictionaries and lists may be shared or
        contain themselves: walk them with a bound.

    Raises:
        ConfigError: the file cannot be read, is damaged, or asks for anything else; the message has the name.
    """
    with open_torch_archive(path) as archive:
        return _Interpreter(archive).run()


def is_readable(tensor: Tensor) -> bool:
    """Whether :func:`read_archive` gives back a tensor that ``torch.save`` writes."""
    return (
        tensor.layout == torch.strided
        and not tensor.is_meta
        and tensor.dtype in STORAGES.values()
        and tensor.dim() <= MAX_DIMENSIONS
        and tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()  # others repeat a number
    )


def _instructions(archive: TorchArchive) -> Iterator[tuple[str, Any]]:
    """The instructions of an archive's pickle, by name, each with its argument."""
    for count, (instruction, argument, _) in enumerate(pickletools.genops(archive.pickle)):
        if count >= MAX_INSTRUCTIONS:
            refuse(archive.path, f"has more than {MAX_INSTRUCTIONS} pickle instructions")
        if instruction.name not in _ACTIONS:
            refuse(archive.path, f"uses the pickle instruction {instruction.name}, which torch.save never writes")
        yield instruction.name, argument


@dataclass(frozen=True)
class _Name:
    """A global name of the file: text, and nothing else."""

    text: str


@dataclass(frozen=True)
class _Storage:
    values: Tensor


class _Interpreter:
    """Executes one pickle on values of its own."""

    def __init__(self, archive: TorchArchive) -> None:
        self.archive = archive
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, _Storage] = {}

    def run(self) -> Any:
        for name, argument in _instructions(self.archive):
            _ACTIONS[name](self, argument)
        if len(self.stack) != 1 or self.marked:
            self.refuse("ends with values left over")
        return self.stack[0]

    def refuse(self, what: str) -> NoReturn:
        refuse(self.archive.path, what)

    def require(self, condition: bool, what: str) -> None:
        if not condition:
            self.refuse(what)

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def protocol(self, version: int) -> None:
        self.require(version == 2, f"is pickled with protocol {version}; torch.save writes protocol 2")

    def mark(self) -> None:
        self.marked.append(self.stack)
        self.stack = []

    def pop_marked(self) -> list[Any]:
        items, self.stack = self.stack, self.marked.pop()
        return items

    def pop_tuple(self, length: int) -> None:
        items = tuple(self.stack[-length:])
        self.require(len(items) == length, "takes more values than there are")
        self.stack[-length:] = [items]

    def put(self, index: int) -> None:
        # pickle numbers its memo from 0; a huge number would make another reader allocate for it
        self.require(index <= len(self.memo), f"skips to memo {index}")
        self.memo[index] = self.stack[-1]

    def append(self, items: list[Any]) -> None:
        self.require(type(self.stack[-1]) is list, "appends to something that is not a list")
        self.stack[-1].extend(items)

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        self.require(type(target) is dict and len(items) % 2 == 0, "sets items of something that is not a dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            self.require(type(key) in (str, int), f"has a dictionary key that is a {type(key).__name__}")
            target[key] = value

    def find(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        text = f"{module}.{name}"
        if text not in _CALLS and text not in STORAGES and text not in INERT_NAMES and not INERT_CLASS.fullmatch(text):
            self.refuse(f"asks for {text[:200]!r}, which is no tensor and no layer of a network")
        self.push(_Name(text))

    def call(self) -> None:
        arguments, called = self.stack.pop(), self.stack.pop()
        self.require(type(called) is _Name and type(arguments) is tuple, "calls something that is not a function")
        if called.text in _CALLS:
            self.push(_CALLS[called.text](self, arguments))
        else:
            self.require(called.text not in STORAGES, f"calls {called.text}")
            self.push(StandIn(called.text))

    def set_state(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if type(target) is dict and type(state) is dict and state.keys() <= {"_metadata"}:
            return  # a state dict's record of module versions, which load_state_dict does without
        self.require(type(target) is StandIn, "sets the attributes of something that is not a layer")
        target.state = state

    def storage(self) -> None:
        described = self.stack.pop()
        expected = [str, _Name, str, str, int]
        if type(described) is not tuple or [type(part) for part in described] != expected or described[0] != "storage":
            self.refuse("refers to something outside that is not a tensor storage")
        _, kind, key, _, length = described
        self.require(kind.text in STORAGES and length >= 0, f"has a storage of type {kind.text}")
        dtype = STORAGES[kind.text]
        if key not in self.storages:
            data = self.archive.storage(key, length * dtype.itemsize)
            # the copy lies where torch puts its tensors: kernels may depend on the alignment
            values = torch.frombuffer(data, dtype=dtype).clone() if data else torch.empty(0, dtype=dtype)
            self.storages[key] = _Storage(values)
        values = self.storages[key].values
        self.require(values.dtype == dtype and len(values) == length, f"describes storage {key} in two ways")
        self.push(self.storages[key])

    def tensor(self, arguments: tuple[Any, ...]) -> Tensor:
        storage, offset, size, stride, *_ = arguments
        numbers = (offset, *size, *stride)
        self.require(
            type(storage) is _Storage
            and type(size) is type(stride) is tuple
            and len(size) == len(stride) <= MAX_DIMENSIONS
            and len(arguments) in (6, 7)
            and all(type(number) is int and number >= 0 for number in numbers),
            "describes a tensor that cannot be",
        )
        available = len(storage.values)
        if 0 in size:
            fits = offset <= available and math.prod(filter(None, size)) < 2**31
        else:
            last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
            fits = last < available and math.prod(size) <= available  # both: strides of 0 repeat a number for ever
        self.require(fits, "describes a tensor larger than its storage")
        view: Tensor = storage.values.as_strided(size, stride, offset)
        return view

    def parameter(self, arguments: tuple[Any, ...]) -> Tensor:
        value: Any = arguments[0]
        self.require(isinstance(value, Tensor) and len(arguments) == 3, "has a parameter that is not a tensor")
        return value

    def ordered_dict(self, arguments: tuple[Any, ...]) -> dict[Any, Any]:
        self.require(not arguments, "calls collections.OrderedDict with arguments")
        return {}

    def set(self, arguments: tuple[Any, ...]) -> set[str]:
        (items,) = arguments
        self.require(type(items) is list and all(type(item) is str for item in items), "has a set of other than text")
        return set(items)


_CALLS: dict[str, Callable[[_Interpreter, tuple[Any, ...]], Any]] = {
    "torch._utils._rebuild_tensor_v2": _Interpreter.tensor,
    "torch._utils._rebuild_parameter": _Interpreter.parameter,
    "collections.OrderedDict": _Interpreter.ordered_dict,
    "builtins.set": _Interpreter.set,
    "__builtin__.set": _Interpreter.set,
}

_ACTIONS: dict[str, Callable[[_Interpreter, Any], None]] = {
    "PROTO": _Interpreter.protocol,
    "STOP": lambda machine, _: None,
    "MARK": lambda machine, _: machine.mark(),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"), _Interpreter.push),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "TUPLE1": lambda machine, _: machine.pop_tuple(1),
    "TUPLE2": lambda machine, _: machine.pop_tuple(2),
    "TUPLE3": lambda machine, _: machine.pop_tuple(3),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_marked())),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "APPEND": lambda machine, _: machine.append([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine.append(machine.pop_marked()),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "SETITEM": lambda machine, _: machine.set_items([machine.stack.pop(-2), machine.stack.pop()]),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_marked()),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), _Interpreter.put),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda machine, index: machine.push(machine.memo[index])),
    "GLOBAL": _Interpreter.find,
    **dict.fromkeys(("REDUCE", "NEWOBJ"), lambda machine, _: machine.call()),
    "BUILD": lambda machine, _: machine.set_state(),
    "BINPERSID": lambda machine, _: machine.storage(),
}
