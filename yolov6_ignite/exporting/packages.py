"""Packages that only exporting needs: the extras ``export``, and ``openvino``, which adds to it."""

from __future__ import annotations

import importlib.util

from yolov6_ignite.errors import ConfigError

__all__ = ["require_packages"]


def require_packages(wanted_by: str, *packages: str, extra: str = "export") -> None:
    """Refuses, before any work is done, what a missing package would end.

    Args:
        wanted_by: what needs them, the beginning of the message.
        packages: their import names.
        extra: that all of them are in.

    Raises:
        ConfigError: names the first that is not installed and the extra that it is in.
    """
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"{wanted_by}: the package {package} is not installed; run pip install 'yolov6-ignite[{extra}]'"
            )
