# SPDX-License-Identifier: Apache-2.0
"""Packages whose names are imported on first use, so that importing the package stays cheap."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Any

__all__ = ["lazily"]


def lazily(
    package: str, homes: Mapping[str, str], renamed: Mapping[str, str] = MappingProxyType({})
) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package.

    Args:
        package: its ``__name__``.
        homes: public name to the submodule that defines it.
        renamed: earlier name to the present one; it works for one release, with a warning.
    """

    def get(name: str) -> Any:
        if name in renamed:
            now = renamed[name]
            warnings.warn(f"{package}.{name} is now {package}.{now}", DeprecationWarning, stacklevel=2)
            return get(now)
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{homes[name]}"), name)

    return get
