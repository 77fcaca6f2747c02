# SPDX-License-Identifier: Apache-2.0
"""Token-reduction methods by name. Listing names imports nothing heavy: a method is imported when it is asked for."""

from __future__ import annotations

import sys
import warnings
from types import ModuleType
from typing import Any

from vidcomp.core.arguments import checked, expect
from vidcomp.core.registry import MethodInfo, Registry
from vidcomp.methods.base import Method

__all__ = ["METHODS", "Method", "MethodInfo", "get_method", "list_methods", "method_names", "method_of"]

METHODS: Registry[Method] = Registry(
    "method",
    group="vidcomp.methods",
    built_in={
        "holitom": "vidcomp.methods.holitom:Holitom",
        "aim": "vidcomp.methods.aim:Aim",
        "aot": "vidcomp.methods.aot:Aot",
        "cluster": "vidcomp.methods.cluster:Cluster",
        "divprune": "vidcomp.methods.divprune:Divprune",
        "dycoke": "vidcomp.methods.dycoke:Dycoke",
        "echoprune": "vidcomp.methods.echoprune:Echoprune",
        "evs": "vidcomp.methods.evs:Evs",
        "fastervlm": "vidcomp.methods.vispruner:Fastervlm",
        "fastvid": "vidcomp.methods.fastvid:Fastvid",
        "flashvid": "vidcomp.methods.flashvid:Flashvid",
        "flowcut": "vidcomp.methods.flowcut:Flowcut",
        "fopru": "vidcomp.methods.fopru:Fopru",
        "forestprune": "vidcomp.methods.forestprune:Forestprune",
        "framefusion": "vidcomp.methods.framefusion:Framefusion",
        "gleanvid": "vidcomp.methods.gleanvid:Gleanvid",
        "globalcom2": "vidcomp.methods.globalcom2:Globalcom2",
        "gprune": "vidcomp.methods.gprune:Gprune",
        "kffocus": "vidcomp.methods.kffocus:Kffocus",
        "kitoke": "vidcomp.methods.kitoke:Kitoke",
        "lftr_like": "vidcomp.methods.lftr_like:LftrLike",
        "llavolta": "vidcomp.methods.llavolta:Llavolta",
        "longvu": "vidcomp.methods.longvu:Longvu",
        "mmtok": "vidcomp.methods.mmtok:Mmtok",
        "ott_vid": "vidcomp.methods.ott_vid:OttVid",
        "prunevid": "vidcomp.methods.prunevid:Prunevid",
        "recoverable": "vidcomp.methods.recoverable:Recoverable",
        "st_simdiff": "vidcomp.methods.st_simdiff:StSimdiff",
        "surge": "vidcomp.methods.surge:Surge",
        "todre": "vidcomp.methods.todre:Todre",
        "tome": "vidcomp.methods.tome:Tome",
        "turbo": "vidcomp.methods.turbo:Turbo",
        "unified_st": "vidcomp.methods.unified_st:UnifiedSt",
        "v_cast": "vidcomp.methods.v_cast:VCast",
        "vidcom2": "vidcomp.methods.vidcom2:Vidcom2",
        "visionzip": "vidcomp.methods.visionzip:Visionzip",
        "vispruner": "vidcomp.methods.vispruner:Vispruner",
        "vscan": "vidcomp.methods.vscan:Vscan",
        "vtc_cls": "vidcomp.methods.vtc_cls:VtcCls",
        "none": "vidcomp.methods.controls:Keep",
        "random": "vidcomp.methods.controls:Random",
        "uniform": "vidcomp.methods.controls:Uniform",
        "frames": "vidcomp.methods.controls:FewerFrames",
        "pool": "vidcomp.methods.controls:Pool",
    },
)


def method_names() -> tuple[str, ...]:
    """Names that :func:`get_method` accepts: the built-in ones, then those of installed packages."""
    return METHODS.names()


@checked
def get_method(name: str, **parameters: Any) -> Method:
    """Build a method, for example ``get_method("holitom", tau=0.8)``.

    Args:
        name: one of :func:`method_names`.
        parameters: fields of the method's dataclass; those left out keep the published default.

    Raises:
        UsageError: unknown name or parameter, a value outside its range, or a package that cannot be imported.
    """
    return METHODS.get(name, **parameters)


def method_of(spec: str | Method) -> Method:
    """The method that a text like ``holitom:tau=0.8`` names; a method object stays itself.

    Raises:
        UsageError: as :func:`get_method`.
    """
    if not isinstance(spec, str):
        whole = callable(spec) and not isinstance(spec, type) and hasattr(spec, "name") and hasattr(spec, "needs")
        expect("method", spec, whole, "a name with parameters, such as 'holitom:tau=0.8', or get_method(...)")
        return spec
    method = METHODS.build(spec)
    assert method is not None  # every word is a name
    return method


def list_methods(built_in: bool = False, fresh: bool = False) -> tuple[MethodInfo, ...]:
    """Every method that can be loaded, those of installed packages too unless only the ``built_in`` ones are wanted.

    One that cannot be loaded is left out, with a warning in the log. The built-in ones are read from the index, unless
    ``fresh``.
    """
    return METHODS.rows(built_in, fresh)


class _CallableModule(ModuleType):
    """Answers ``vidcomp.methods()``, the earlier name of :func:`list_methods`, with a warning."""

    def __call__(self) -> tuple[MethodInfo, ...]:
        warnings.warn("vidcomp.methods() is now vidcomp.list_methods()", DeprecationWarning, stacklevel=2)
        return list_methods()


sys.modules[__name__].__class__ = _CallableModule
