"""What was quantised and how, as plain values that a checkpoint carries."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, Literal, get_args

from yolov6_ignite.errors import ConfigError

__all__ = ["Method", "Placement", "QuantizationSpec", "Target"]

Method = Literal["max", "entropy", "percentile", "mse"]
Target = Literal["tensorrt", "onnxruntime"]
Placement = Literal["inputs", "activations"]

PLACEMENT: dict[Target, Placement] = {"tensorrt": "inputs", "onnxruntime": "activations"}


@dataclasses.dataclass(frozen=True)
class QuantizationSpec:
    """Everything that the tree of a quantised model depends on, beside the float model.

    Attributes:
        bits: of weights and activations, in 2..8; fewer than 8 are for experiments, no runtime has them.
        method: how the range of an activation is chosen; weights always take their largest magnitude.
        percentile: of the magnitudes that method `percentile` keeps, in (0, 100].
        skip: names of layers that stay in floating point, or patterns for them (`neck.*`, as in a shell).
        target: `tensorrt` has signed integers with zero point 0; `onnxruntime` has unsigned activations, with zero
            point 0 where none is negative and the middle otherwise.
        placement: `inputs` quantises what layers read and what learned upsampling gives; `activations` also what
            layers and activations give, without which onnxruntime computes in floating point. None is what the
            target needs.
        keep_batch_norm: batch norms stay until export, for models without parallel branches (RepOptimizer's).

    Raises:
        ConfigError: a value out of range.
    """

    bits: int = 8
    method: Method = "max"
    percentile: float = 99.99
    skip: tuple[str, ...] = ()
    target: Target = "tensorrt"
    placement: Placement | None = None
    keep_batch_norm: bool = False

    def __post_init__(self) -> None:
        is_number = type(self.percentile) in (int, float)
        for key, right, wanted in (
            ("bits", type(self.bits) is int and 2 <= self.bits <= 8, "a whole number in 2..8"),
            ("method", self.method in get_args(Method), f"one of {', '.join(get_args(Method))}"),
            ("percentile", is_number and 0 < self.percentile <= 100, "a number above 0, up to 100"),
            ("skip", _is_texts(self.skip), "a list of layer names or patterns"),
            ("target", self.target in get_args(Target), f"one of {', '.join(get_args(Target))}"),
            ("placement", self.placement in (None, *get_args(Placement)), f"one of {', '.join(get_args(Placement))}"),
            ("keep_batch_norm", type(self.keep_batch_norm) is bool, "true or false"),
        ):
            if not right:
                raise ConfigError(f"quantisation, {key}: {getattr(self, key)!r}; it must be {wanted}")

    @property
    def quantizes_activations(self) -> bool:
        """Whether what layers and activations give is quantised, not only what layers read."""
        return (self.placement or PLACEMENT[self.target]) == "activations"

    def summary(self, layers: Collection[str]) -> str:
        """In words, with the number of quantised `layers`."""
        skipped = f"; in floating point: {', '.join(self.skip)}" if self.skip else ""
        return f"{len(layers)} layers in {self.bits} bits for {self.target}, ranges by {self.method}{skipped}"

    def to_dict(self) -> dict[str, Any]:
        """The plain values, as :meth:`from_dict` reads them."""
        return {**dataclasses.asdict(self), "skip": list(self.skip)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> QuantizationSpec:
        """Reads what :meth:`to_dict` gave; absent keys have their defaults.

        Raises:
            ConfigError: no mapping, an unknown key, or a value out of range.
        """
        if not isinstance(values, Mapping):
            raise ConfigError(f"quantisation: {type(values).__name__}; it must be keys and their values")
        unknown = sorted({str(key) for key in values} - {field.name for field in dataclasses.fields(cls)})
        if unknown:
            raise ConfigError(f"quantisation: unknown keys {', '.join(unknown)}; update this project, or remove them")
        skip = values.get("skip", ())
        return cls(**{**values, "skip": tuple(skip) if isinstance(skip, (list, tuple)) else skip})


def _is_texts(value: Any) -> bool:
    return type(value) is tuple and all(type(item) is str for item in value)
