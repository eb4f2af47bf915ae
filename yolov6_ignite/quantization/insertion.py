"""Quantisers into a network of any kind, in place: parameters keep their names and stay the same objects."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from yolov6_ignite.errors import ConfigError
from yolov6_ignite.models import Detector
from yolov6_ignite.models.repvgg import MultiBranchBlock
from yolov6_ignite.quantization.layers import QUANTIZED, add_output_quantizer, quantize_layer
from yolov6_ignite.quantization.placement import connected_values, output_sites
from yolov6_ignite.quantization.quantizer import Mode, TensorQuantizer
from yolov6_ignite.quantization.spec import QuantizationSpec
from yolov6_ignite.quantization.tracing import trace

__all__ = [
    "configure_quantizers",
    "insert_quantizers",
    "quantized_layers",
    "quantized_model",
    "quantizers",
    "set_mode",
]

NEVER = "proj_conv"  # a constant that stands in the state dict and is not computed with
ACTIVATIONS = (nn.ReLU, nn.SiLU, nn.Hardswish)
SHOWN = 3  # names in a message


def quantized_model(model: Detector, spec: QuantizationSpec) -> Detector:
    """A copy of a float detector in the form that is quantised, with quantisers that are off, in eval mode.

    The form is the deployed one, or that of training where `spec` keeps the batch norms. The copy's state dict loads
    what was saved from another one of the same model and `spec`.

    Raises:
        ConfigError: as :func:`insert_quantizers`.
    """
    constants = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    form = copy.deepcopy(model).eval() if spec.keep_batch_norm else model.deploy()
    for name, parameter in form.named_parameters():
        parameter.requires_grad_(name not in constants)
    insert_quantizers(form, spec)
    return form


def insert_quantizers(model: nn.Module, spec: QuantizationSpec, example: Tensor | None = None) -> None:
    """Puts quantisers, off and without a range, into a model, by what one forward pass shows of it.

    Layers that detection does not use stay as they are, and `proj_conv` does. The quantisers are those of every
    target, so that one calibration is enough; :func:`configure_quantizers` says which of them count.

    Args:
        model: a network without parallel branches: deployed, or of RepOptimizer. Its mode does not matter.
        spec: what is to be quantised and how.
        example: input of the pass; None for a black image, of the smallest size of a :class:`Detector`.

    Raises:
        ConfigError: a block has parallel branches, `spec.skip` has something that no layer matches, or nothing is
            left to quantise.
        ValueError: the model has quantisers already.
    """
    if any(isinstance(module, TensorQuantizer) for module in model.modules()):
        raise ValueError("the model has quantisers already; insert them into the float model")
    _refuse_branches(model)
    _unshare_activations(model)
    if example is None:
        parameter = next(model.parameters())
        size = model.size_multiple if isinstance(model, Detector) else 64
        example = torch.zeros(1, 3, size, size, device=parameter.device, dtype=parameter.dtype)
    passed = trace(model, example)
    candidates = {
        name: module
        for name, module in model.named_modules()
        if type(module) in QUANTIZED and name in passed.read and name.rsplit(".", 1)[-1] != NEVER
    }
    skipped = _matches(spec.skip, list(candidates))
    layers = {name: module for name, module in candidates.items() if name not in skipped}
    if not layers:
        raise ConfigError("quantisation, skip: no layer is left to quantise; remove some names or patterns")

    groups = connected_values(passed, layers)
    sites = output_sites(passed, layers)
    for name, layer in layers.items():
        quantize_layer(layer, example.device)
        value = passed.read[name][0]
        layer.input_quantizer.group = groups.get(value, value)
    for name, kind, value in sites:
        quantizer = TensorQuantizer(kind, device=example.device)
        quantizer.group = groups.get(value, value)
        add_output_quantizer(model.get_submodule(name), quantizer)
    configure_quantizers(model, spec)


def configure_quantizers(model: nn.Module, spec: QuantizationSpec) -> None:
    """Gives all quantisers the bits, the grid and the choice of places of `spec`; ranges and modes stay.

    After this a model that was calibrated for one target computes as another one does.
    """
    for _, quantizer in quantizers(model):
        quantizer.num_bits = spec.bits
        quantizer.unsigned = spec.target == "onnxruntime" and quantizer.kind != "weight"
        quantizer.enabled = quantizer.kind != "activation" or spec.quantizes_activations


def quantizers(model: nn.Module) -> Iterator[tuple[str, TensorQuantizer]]:
    """All quantisers, by name."""
    for name, module in model.named_modules():
        if isinstance(module, TensorQuantizer):
            yield name, module


def quantized_layers(model: nn.Module) -> list[str]:
    """Names of the quantised layers, as `skip` takes them."""
    return [name for name, module in model.named_modules() if type(module) in QUANTIZED.values()]


def set_mode(model: nn.Module, mode: Mode, layers: Iterable[str] | None = None) -> None:
    """Sets the mode of all quantisers, or of those that some layers have, by the names of the layers."""
    chosen = None if layers is None else set(layers)
    for name, quantizer in quantizers(model):
        if chosen is None or name.rsplit(".", 1)[0] in chosen:
            quantizer.mode = mode


def _refuse_branches(model: nn.Module) -> None:
    names = [
        f"{name or 'the model'} ({type(module).__name__})"
        for name, module in model.named_modules()
        if isinstance(module, MultiBranchBlock) and module.rbr_reparam is None
    ]
    if names:
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        raise ConfigError(
            f"quantisation: {', '.join(names[:SHOWN])}{more}: parallel branches, each quantised, are not what is "
            "deployed; quantise the deployed form (keep_batch_norm: false)"
        )


def _unshare_activations(model: nn.Module) -> None:
    """Gives every place in the tree its own activation module: the values at two places have different ranges."""
    seen: set[int] = set()
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if isinstance(module, ACTIVATIONS) and name:
            if id(module) in seen:
                parent, _, leaf = name.rpartition(".")
                setattr(model.get_submodule(parent), leaf, copy.deepcopy(module))
            seen.add(id(module))


def _matches(patterns: Sequence[str], names: Sequence[str]) -> set[str]:
    """The names that any pattern matches or is.

    Raises:
        ConfigError: a pattern matches none.
    """
    matched: set[str] = set()
    for pattern in patterns:
        found = {name for name in names if name == pattern or fnmatchcase(name, pattern)}
        if not found:
            close = difflib.get_close_matches(pattern, names, n=1)
            hint = f"; did you mean {close[0]}?" if close else f"; layers have names such as {names[0]}"
            raise ConfigError(f"quantisation, skip: {pattern} matches no layer that can be quantised{hint}")
        matched |= found
    return matched
