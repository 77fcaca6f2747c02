# SPDX-License-Identifier: Apache-2.0
"""Native libraries that come inside the wheels of other packages, found without importing those."""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

__all__ = ["load_library"]


def load_library(
    stem: str, packages: tuple[str, ...], system: tuple[str, ...], declare: Callable[[ctypes.CDLL], None]
) -> ctypes.CDLL | None:
    """The first copy of a library that loads and has the functions that are needed; None when there is none.

    Args:
        stem: how its file is called, such as ``libvpx``.
        packages: whose wheels may hold it, tried first.
        system: its names in the system.
        declare: tells the types of its functions; raises AttributeError when one is missing.
    """
    for place in (*(path for package in packages for path in _inside(package, stem)), *system):
        try:
            library = ctypes.CDLL(place)
            declare(library)
        except (OSError, AttributeError):  # not there, or another version
            continue
        return library
    return None


def _inside(package: str, stem: str) -> Iterator[str]:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return
    folder = Path(spec.origin).parent
    for place in (folder.with_name(f"{package}.libs"), folder / ".dylibs"):
        yield from (str(path) for path in sorted(place.glob(f"{stem}[-.]*")))
