"""Weight files whose pickle would run something, or reach outside of the file, if it were trusted."""

from __future__ import annotations

import copyreg
import functools
import importlib
import io
import operator
import os
import pickle
import runpy
import struct
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from official_files import write_zip, yolov6_classes

__all__ = ["PICKLES", "HostileFile", "hostile", "write_raw"]


@dataclass(frozen=True)
class HostileFile:
    """One way to attack a reader of weights.

    Attributes:
        name: what it is.
        write: writes it to the first path; where it can run something, that creates the second, the canary.
        message: a pattern of what a refusal says; None when it can be read, as something inert.
        runs: whether Python's own unpickler creates the canary.
    """

    name: str
    write: Callable[[Path, Path], object]
    message: str | None
    runs: bool


PICKLES: list[HostileFile] = []
Writer = Callable[[Path, Path], object]


def hostile(
    message: str | None, *, runs: bool = False, among: list[HostileFile] = PICKLES
) -> Callable[[Writer], Writer]:
    """Puts a function that writes a file among the hostile files."""

    def add(write: Writer) -> Writer:
        among.append(HostileFile(write.__name__, write, message, runs))
        return write

    return add


class Call:
    """Pickles as the call of a function, and so as whatever that returns."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.called = (function, arguments)

    def __reduce__(self) -> Any:
        return self.called


def write_object(path: Path, value: Any, protocol: int = 2) -> None:
    write_zip(path, pickle.dumps({"model": value, "ema": None}, protocol=protocol, fix_imports=False))


def write_raw(path: Path, instructions: bytes) -> None:
    write_zip(path, b"\x80\x02" + instructions + b".")


def text(value: object) -> bytes:
    data = str(value).encode()
    return b"X" + struct.pack("<I", len(data)) + data


def write_storage(path: Path, identifier: Any, records: dict[str, bytes]) -> None:
    class Writer(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            return identifier if value is path else None

    file = io.BytesIO()
    Writer(file, protocol=2).dump({"model": path})
    write_zip(path, file.getvalue(), records)


def touch(canary: Path) -> str:
    return f"touch '{canary}'"


# Calls of functions


@hostile(r"posix\.system", runs=True)
def os_system(path: Path, canary: Path) -> None:
    write_object(path, Call(os.system, touch(canary)))


@hostile(r"builtins\.eval", runs=True)
def builtins_eval(path: Path, canary: Path) -> None:
    write_object(path, Call(eval, f"open({str(canary)!r}, 'w')"))


@hostile(r"builtins\.exec", runs=True)
def builtins_exec(path: Path, canary: Path) -> None:
    write_object(path, Call(exec, f"open({str(canary)!r}, 'w')"))


@hostile(r"__builtin__\.getattr", runs=True)
def getattr_chain(path: Path, canary: Path) -> None:
    system = Call(getattr, Call(importlib.import_module, "os"), "system")
    write_raw(path, pickle.dumps(system, 2)[2:-1] + text(touch(canary)) + b"\x85R")


@hostile(r"torch\.serialization\.load", runs=True)
def torch_load(path: Path, canary: Path) -> None:
    inner = path.with_name("inner.pt")
    torch.save(Call(os.system, touch(canary)), inner)
    write_object(path, Call(torch.load, str(inner), "cpu", Call(importlib.import_module, "pickle")))


@hostile(r"posix\.system", runs=True)
def nested_in_an_allowed_call(path: Path, canary: Path) -> None:
    write_object(path, Call(torch._utils._rebuild_parameter, Call(os.system, touch(canary)), False, {}))


@hostile(r"copyreg\._reconstructor", runs=True)
def copyreg_reconstructor(path: Path, canary: Path) -> None:
    write_object(path, Call(copyreg._reconstructor, subprocess.Popen, subprocess.Popen, ["touch", str(canary)]))


@hostile(r"functools\.partial", runs=True)
def functools_partial(path: Path, canary: Path) -> None:
    partial = Call(functools.partial, os.system, touch(canary))
    write_raw(path, pickle.dumps(partial, 2)[2:-1] + b")R")


@hostile(r"operator\.attrgetter", runs=True)
def operator_attrgetter(path: Path, canary: Path) -> None:
    getter = pickle.dumps(Call(operator.attrgetter, "system"), 2)[2:-1]
    module = pickle.dumps(Call(importlib.import_module, "os"), 2)[2:-1]
    write_raw(path, getter + module + b"\x85R" + text(touch(canary)) + b"\x85R")


@hostile(r"subprocess\.Popen", runs=True)
def subprocess_popen(path: Path, canary: Path) -> None:
    write_object(path, Call(subprocess.Popen, ["touch", str(canary)]))


@hostile(r"importlib\.import_module")
def import_module(path: Path, canary: Path) -> None:
    write_object(path, Call(importlib.import_module, "this"))


@hostile(r"runpy\.run_path", runs=True)
def runpy_run_path(path: Path, canary: Path) -> None:
    script = path.with_name("script.py")
    script.write_text(f"open({str(canary)!r}, 'w')")
    write_object(path, Call(runpy.run_path, str(script)))


@hostile("protocol 4", runs=True)
def protocol_4(path: Path, canary: Path) -> None:
    write_object(path, Call(os.system, touch(canary)), protocol=4)


@hostile("STACK_GLOBAL", runs=True)
def stack_global(path: Path, canary: Path) -> None:
    write_raw(path, text("os") + text("system") + b"\x93" + text(touch(canary)) + b"\x85R")


@hostile("INST", runs=True)
def inst(path: Path, canary: Path) -> None:
    write_raw(path, b"(" + text(touch(canary)) + b"ios\nsystem\n")


@hostile(r"os\.system", runs=True)
def obj(path: Path, canary: Path) -> None:
    write_raw(path, b"(cos\nsystem\n" + text(touch(canary)) + b"o")


@hostile("EXT1")
def extension_registry(path: Path, canary: Path) -> None:
    write_raw(path, b"\x82\x01")


# Names that look allowed


@hostile(r"torch\.nn\.modules\.module\.torch\.os\.system")
def dotted_path_into_torch(path: Path, canary: Path) -> None:
    write_raw(path, b"ctorch.nn.modules.module\ntorch.os.system\n" + text(touch(canary)) + b"\x85R")


@hostile("protocol 4", runs=True)
def dotted_path_that_protocol_4_follows(path: Path, canary: Path) -> None:
    call = b"ctorch.nn.modules.module\ntorch.os.system\n" + text(touch(canary)) + b"\x85R."
    write_zip(path, b"\x80\x04" + call)


@hostile(r"yolov6\.layers\.common\.common\.os\.system")
def dotted_path_into_yolov6(path: Path, canary: Path) -> None:
    write_raw(path, b"cyolov6.layers.common\ncommon.os.system\n" + text(touch(canary)) + b"\x85R")


@hostile(r"yolov6\.layers\.common\.system")
def function_of_yolov6(path: Path, canary: Path) -> None:
    write_raw(path, b"cyolov6.layers.common\nsystem\n" + text(touch(canary)) + b"\x85R")


@hostile(None, runs=True)
def setstate_of_yolov6(path: Path, canary: Path) -> None:
    with yolov6_classes() as make:
        harm = make.make("ConvModule", object, __setstate__=lambda self, state: os.system(state["command"]))
        layer = harm()
        layer.command = touch(canary)
        write_object(path, layer)


@hostile(None, runs=True)
def constructor_of_yolov6(path: Path, canary: Path) -> None:
    with yolov6_classes() as make:
        harm = make.make("Detect", object, __init__=lambda self, command: os.system(command) and None)
        write_object(path, Call(harm, touch(canary)))


# State for what must have none


@hostile("sets the attributes")
def state_of_a_function(path: Path, canary: Path) -> None:
    write_raw(path, b"ctorch._utils\n_rebuild_tensor_v2\n}" + text("__code__") + text(canary) + b"sb")


@hostile("sets the attributes")
def state_of_a_class(path: Path, canary: Path) -> None:
    write_raw(path, b"cyolov6.layers.common\nConv\n}" + text("__reduce__") + text(canary) + b"sb")


@hostile("sets the attributes")
def slots_of_a_dictionary(path: Path, canary: Path) -> None:
    write_raw(path, b"ccollections\nOrderedDict\n)RN}" + text("__class__") + text(canary) + b"s\x86b")


# Storages that are not in the file


@hostile(r"\.\./\.\./secret")
def path_in_a_storage_key(path: Path, canary: Path) -> None:
    record = {"data/../../secret": bytes(4)}
    write_storage(path, ("storage", torch.FloatStorage, "../../secret", "cpu", 1), record)


@hostile("asks for the storage '7'")
def missing_storage(path: Path, canary: Path) -> None:
    write_storage(path, ("storage", torch.FloatStorage, "7", "cpu", 1), {})


@hostile("4 bytes where its pickle says 4000000000000")
def storage_longer_than_its_record(path: Path, canary: Path) -> None:
    write_storage(path, ("storage", torch.FloatStorage, "0", "cpu", 10**12), {"data/0": bytes(4)})


@hostile("not a tensor storage")
def other_persistent_object(path: Path, canary: Path) -> None:
    write_storage(path, ("module", "os", "system", "", 0), {})


@hostile("not a tensor storage")
def storage_of_a_class(path: Path, canary: Path) -> None:
    write_storage(path, ("storage", "FloatStorage", "0", "cpu", 1), {"data/0": bytes(4)})


@hostile("PERSID")
def textual_persistent_identifier(path: Path, canary: Path) -> None:
    write_raw(path, b"Pos.system\n")
