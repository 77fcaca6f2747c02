"""Reduction inside the language model: a cache that carries the plan, stateless hooks that carry it out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vidcomp.lazy import lazily
from vidcomp.registry import MethodInfo, Registry

if TYPE_CHECKING:
    from vidcomp.inllm.balance import AttentionBalance, LayerBalance
    from vidcomp.inllm.base import Cut, Schedule
    from vidcomp.inllm.cache import CompressedCache
    from vidcomp.inllm.hooks import Attachment
    from vidcomp.inllm.prefix import PrefixCache, QuestionCache
    from vidcomp.inllm.proof import check_forward
    from vidcomp.inllm.stage import Stage

__all__ = [
    "SCHEDULES",
    "Attachment",
    "AttentionBalance",
    "CompressedCache",
    "Cut",
    "LayerBalance",
    "PrefixCache",
    "QuestionCache",
    "Schedule",
    "Stage",
    "check_forward",
    "get_schedule",
    "schedule_names",
    "schedules",
]

__getattr__ = lazily(
    __name__,
    {
        "AttentionBalance": "balance",
        "LayerBalance": "balance",
        "Cut": "base",
        "Schedule": "base",
        "CompressedCache": "cache",
        "Attachment": "hooks",
        "PrefixCache": "prefix",
        "QuestionCache": "prefix",
        "check_forward": "proof",
        "Stage": "stage",
    },
)

SCHEDULES: Registry[Schedule] = Registry(
    "inner schedule",
    group="vidcomp.schedules",
    also=("auto", "none"),
    built_in={
        "holitom": "vidcomp.inllm.holitom:HolitomInner",
        "fastv": "vidcomp.inllm.fastv:FastV",
        "prunevid": "vidcomp.inllm.prunevid:PruneVidInner",
        "pyramiddrop": "vidcomp.inllm.pyramiddrop:PyramidDrop",
        "visiondrop": "vidcomp.inllm.visiondrop:VisionDropInner",
        "vscan": "vidcomp.inllm.vscan:VScanInner",
        "vflowopt": "vidcomp.inllm.vflowopt:VFlowOptInner",
        "todre": "vidcomp.inllm.todre:ToDREInner",
        "aim": "vidcomp.inllm.aim:AimInner",
        "framefusion": "vidcomp.inllm.framefusion:FrameFusionInner",
        "flashvid": "vidcomp.inllm.flashvid:FlashVidInner",
        "unified_st": "vidcomp.inllm.unified_st:UnifiedInner",
        "catp": "vidcomp.inllm.catp:CatpInner",
        "gsearch": "vidcomp.inllm.gsearch:GSearch",
        "psigmoid": "vidcomp.inllm.psigmoid:PSigmoid",
        "shortv": "vidcomp.inllm.shortv:ShortV",
        "dycoke": "vidcomp.inllm.dycoke:DyCokeInner",
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


def schedules(built_in: bool = False, fresh: bool = False) -> tuple[MethodInfo, ...]:
    """Every inner schedule that can be loaded, as :func:`vidcomp.methods.methods` lists the outer methods."""
    return SCHEDULES.rows(built_in, fresh)
