"""Parts of a model that do not train (``train.freeze``)."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from torch import nn

from yolov6_ignite.errors import ConfigError

__all__ = ["FrozenBatchNorm2d", "freeze"]


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """A batch norm that stays in eval mode when its model goes to train mode: its statistics do not change."""

    def train(self, mode: bool = True) -> FrozenBatchNorm2d:
        return super().train(False)


def freeze(model: nn.Module, names: Sequence[str]) -> list[str]:
    """Stops the training of modules: no gradients, and their batch norms use and keep the statistics they have.

    Modes of other modules stay as they are, also of those that contain the frozen ones. Call it before the optimizer
    is built and before the model is wrapped for several devices or copied.

    Args:
        model: changed in place.
        names: paths of modules: ``backbone``, ``neck.Rep_p4``, ``detect.stems.0``.

    Returns:
        Names of the parameters that are frozen now and were not before, in the model's order.

    Raises:
        ConfigError: a path leads to no module or to one without parameters, or nothing is left to train; the model is
            as before then.
    """
    modules = dict(model.named_modules())
    for name in names:
        if not name or name not in modules:
            raise ConfigError(f"train.freeze: the network has no module {name!r}; {_suggestion(name, modules)}")
        if next(modules[name].parameters(), None) is None:
            raise ConfigError(f"train.freeze: {name} has no parameters, so there is nothing to freeze; remove it")
    inside = {parameter for name in names for parameter in modules[name].parameters()}
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    frozen = [name for name, parameter in trained.items() if parameter in inside]
    if trained and len(frozen) == len(trained):
        raise ConfigError(f"train.freeze: {', '.join(names)}: nothing is left to train; freeze less")
    for name in frozen:
        trained[name].requires_grad_(False)
    for name in names:
        for module in modules[name].modules():
            if isinstance(module, nn.BatchNorm2d):
                module.__class__ = FrozenBatchNorm2d
                module.eval()
    return frozen


def _suggestion(name: str, modules: dict[str, nn.Module]) -> str:
    paths = [path for path in modules if path]
    near = difflib.get_close_matches(name, paths, n=3)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"its parts are {', '.join(path for path in paths if '.' not in path)}"
