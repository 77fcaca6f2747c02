# SPDX-License-Identifier: Apache-2.0
"""Reduction inside the language model: schedules by name, each in a file of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vidcomp.core.lazy import lazily
from vidcomp.core.registry import MethodInfo, Registry

if TYPE_CHECKING:
    from vidcomp.schedules.base import Cut, Schedule
    from vidcomp.schedules.state import Stage

__all__ = [
    "SCHEDULES",
    "Cut",
    "Schedule",
    "Stage",
    "get_schedule",
    "schedule_names",
    "list_schedules",
]

__getattr__ = lazily(
    __name__,
    {
        "Cut": "base",
        "Schedule": "base",
        "Stage": "state",
    },
)

SCHEDULES: Registry[Schedule] = Registry(
    "inner schedule",
    group="vidcomp.schedules",
    also=("auto", "none"),
    built_in={
        "holitom": "vidcomp.schedules.holitom:HolitomInner",
        "fastv": "vidcomp.schedules.fastv:FastV",
        "prunevid": "vidcomp.schedules.prunevid:PruneVidInner",
        "pyramiddrop": "vidcomp.schedules.pyramiddrop:PyramidDrop",
        "visiondrop": "vidcomp.schedules.visiondrop:VisionDropInner",
        "vscan": "vidcomp.schedules.vscan:VScanInner",
        "vflowopt": "vidcomp.schedules.vflowopt:VFlowOptInner",
        "todre": "vidcomp.schedules.todre:ToDREInner",
        "aim": "vidcomp.schedules.aim:AimInner",
        "framefusion": "vidcomp.schedules.framefusion:FrameFusionInner",
        "flashvid": "vidcomp.schedules.flashvid:FlashVidInner",
        "unified_st": "vidcomp.schedules.unified_st:UnifiedInner",
        "catp": "vidcomp.schedules.catp:CatpInner",
        "gsearch": "vidcomp.schedules.gsearch:GSearch",
        "psigmoid": "vidcomp.schedules.psigmoid:PSigmoid",
        "shortv": "vidcomp.schedules.shortv:ShortV",
        "dart": "vidcomp.schedules.dart:Dart",
        "fitprune": "vidcomp.schedules.fitprune:FitPrune",
        "st_simdiff": "vidcomp.schedules.st_simdiff:StSimdiffInner",
        "dycoke": "vidcomp.schedules.dycoke:DyCokeInner",
    },
)


def schedule_names() -> tuple[str, ...]:
    """Names that :func:`get_schedule` accepts: the built-in ones, then those of installed packages."""
    return SCHEDULES.names()


def get_schedule(name: str, **parameters: Any) -> Schedule:
    """The inner schedule of that name, ``get_schedule("fastv", k=2, keep=0.5)`` for example.

    Raises:
        UsageError: unknown name or parameter, a value outside its range, or a package that cannot be imported.
    """
    return SCHEDULES.get(name, **parameters)


def list_schedules(built_in: bool = False, fresh: bool = False) -> tuple[MethodInfo, ...]:
    """Every inner schedule that can be loaded, as :func:`vidcomp.methods.list_methods` lists the outer methods."""
    return SCHEDULES.rows(built_in, fresh)
