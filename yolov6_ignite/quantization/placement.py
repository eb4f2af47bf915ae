"""Where quantisers belong in a network, and which of them must share a range."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence

from yolov6_ignite.quantization.quantizer import Kind
from yolov6_ignite.quantization.tracing import Trace

__all__ = ["OutputSite", "connected_values", "output_sites"]

CONVOLUTIONS = {"conv2d", "conv_transpose2d"}

OutputSite = tuple[str, Kind, int]
"""A module whose output is to be quantised, what kind of quantiser that is, and the number of its value."""


def output_sites(trace: Trace, layers: Collection[str]) -> list[OutputSite]:
    """Modules whose output is quantised, beside what the quantised `layers` read.

    That is every result of arithmetic from which a quantised layer computes: of learned upsampling, of activations,
    sums and products, and of a convolution (with its batch norm) unless a ReLU follows, which runtimes compute within
    it. Not what the predictors give, and nothing that a layer in floating point gives. A value that no module
    gives, or only one that is called several times, has no site: whoever reads it quantises it.
    """
    consumers: dict[int, list[str]] = defaultdict(list)
    for operation in trace.operations:
        for value in operation.inputs:
            consumers[value].append(operation.name)
    needed = {value for layer in layers for value in trace.read[layer]}
    for operation in reversed(trace.operations):
        if operation.output in needed:
            needed.update(operation.inputs)
    integer = {value for layer in layers for value in trace.given[layer]}
    modules: dict[int, str] = {}
    for name, values in trace.given.items():
        if len(values) == 1:
            modules.setdefault(values[0], name)  # the innermost

    sites: list[OutputSite] = []
    for operation in trace.operations:
        value, module = operation.output, modules.get(operation.output)
        linear = operation.name in CONVOLUTIONS or operation.name == "batch_norm"
        if operation.name == "batch_norm" and operation.inputs[0] in integer:
            integer.add(value)
        followers = set(consumers[value])
        absorbed = linear and len(followers) == 1 and followers <= {"relu", "batch_norm"}
        if module is None or operation.keeps_values or value not in needed or absorbed:
            continue
        if not linear or value in integer:
            sites.append((module, "upsample" if operation.name == "conv_transpose2d" else "activation", value))
    return sites


def connected_values(trace: Trace, layers: Iterable[str]) -> dict[int, int]:
    """Value -> a number that is common to all values that joining, splitting and moving connects.

    The inputs of a join share one range, as integers of different scales cannot stand side by side; and with it
    share all readers of the joined map and of its parts. So does all that one of the `layers` reads in several calls.
    """
    parents: dict[int, int] = {}
    for operation in trace.operations:
        if operation.keeps_values:
            _unite(parents, (operation.output, *operation.inputs))
    for layer in layers:
        _unite(parents, trace.read[layer])
    return {value: _root(parents, value) for value in list(parents)}


def _unite(parents: dict[int, int], values: Sequence[int]) -> None:
    first, *others = (_root(parents, value) for value in values)
    for other in others:
        parents[other] = first
    parents[first] = first


def _root(parents: dict[int, int], value: int) -> int:
    while (parent := parents.setdefault(value, value)) != value:
        value = parent
    return value
