"""Token-reduction methods by name. Listing names imports nothing heavy: a method is imported when it is asked for."""

from __future__ import annotations

import difflib
import logging
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any

from vidcomp.errors import UsageError
from vidcomp.methods.base import Method, MethodInfo, parameters_of

__all__ = ["GROUP", "Method", "MethodInfo", "get_method", "method_names", "methods"]

GROUP = "vidcomp.methods"  # entry points of other packages: name = "module:Class"

_BUILT_IN = {
    "holitom": "vidcomp.methods.holitom:Holitom",
    "evs": "vidcomp.methods.evs:Evs",
    "fopru": "vidcomp.methods.fopru:Fopru",
    "llavolta": "vidcomp.methods.llavolta:Llavolta",
    "v_cast": "vidcomp.methods.v_cast:VCast",
    "vscan": "vidcomp.methods.vscan:Vscan",
    "vtc_cls": "vidcomp.methods.vtc_cls:VtcCls",
    "flashvid": "vidcomp.methods.flashvid:Flashvid",
    "none": "vidcomp.methods.controls:Keep",
    "frames": "vidcomp.methods.controls:FewerFrames",
    "pool": "vidcomp.methods.controls:Pool",
    "random": "vidcomp.methods.controls:Random",
    "uniform": "vidcomp.methods.controls:Uniform",
}

_log = logging.getLogger(__name__)


def method_names() -> tuple[str, ...]:
    """Names that :func:`get_method` accepts: the built-in ones, then those of installed packages."""
    return tuple(_factories())


def get_method(name: str, **parameters: Any) -> Method:
    """Build a method, for example ``get_method("holitom", tau=0.8)``.

    Args:
        name: one of :func:`method_names`.
        parameters: fields of the method's dataclass; those left out keep the published default.

    Raises:
        UsageError: unknown name or parameter, a value outside its range, or a package that cannot be imported.
    """
    factories = _factories()
    if name not in factories:
        hint = _suggest(name, list(factories), "see: vidcomp methods")
        why = f"there are: {', '.join(factories)}"
        raise UsageError(f"no method named {name!r}", why=why, hint=hint, code="unknown_method")
    try:
        kind = factories[name]()
    except Exception as error:
        why, hint = f"{type(error).__name__}: {error}", "update or remove the package that registers it"
        raise UsageError(f"method {name!r} cannot be loaded", why=why, hint=hint, code="broken_method") from error
    known = list(parameters_of(kind))
    for key in parameters:
        if key not in known:
            why = f"its parameters are: {', '.join(known)}" if known else "it has no parameters"
            what = f"method {name!r} has no parameter {key!r}"
            raise UsageError(what, why=why, hint=_suggest(key, known), code="bad_option")
    try:
        return kind(**parameters)
    except (TypeError, ValueError) as error:
        raise UsageError(f"method {name!r} refuses its parameters", why=str(error), code="bad_option") from error


def methods() -> tuple[MethodInfo, ...]:
    """Every method that can be loaded; one that cannot is left out, with a warning in the log."""
    rows = []
    for name, load in _factories().items():
        try:
            rows.append(MethodInfo.of(name, load()))
        except Exception as error:  # a broken package of somebody else must not hide the others
            _log.warning("method %r left out of the list: %s: %s", name, type(error).__name__, error)
    return tuple(rows)


def _factories() -> dict[str, Callable[[], type[Method]]]:
    """Name to a function that imports the class. Built-in names cannot be replaced."""
    found: dict[str, Callable[[], type[Method]]] = {name: _importer(target) for name, target in _BUILT_IN.items()}
    for point in entry_points(group=GROUP):
        found.setdefault(point.name, point.load)
    return found


def _importer(target: str) -> Callable[[], type[Method]]:
    module, _, attribute = target.partition(":")
    return lambda: getattr(import_module(module), attribute)


def _suggest(word: str, known: list[str], otherwise: str = "") -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]!r}?" if close else otherwise


class _CallableModule(ModuleType):
    """``vidcomp.methods`` names both this package and the function that lists it, so the package can be called."""

    def __call__(self) -> tuple[MethodInfo, ...]:
        return methods()


sys.modules[__name__].__class__ = _CallableModule
