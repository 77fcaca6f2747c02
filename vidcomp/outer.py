"""The outer stage: signals for the view, the method's decision, and its merge."""

from __future__ import annotations

from dataclasses import replace

from vidcomp.config import OuterConfig
from vidcomp.errors import UsageError
from vidcomp.methods.base import Method
from vidcomp.models import Family
from vidcomp.spans import FramePlan
from vidcomp.tokens import CompressedTokens, Reduction, TokenView, apply_reduction, compose, identity

__all__ = ["reduced", "signals_to_collect"]


def signals_to_collect(method: Method, family: Family) -> frozenset[str]:
    """What the tower has to tell for this method.

    Raises:
        UsageError: the method needs a signal that models of this family do not give.
    """
    missing = method.needs - family.signals
    if missing:
        raise UsageError(
            f"method {method.name!r} needs {', '.join(sorted(missing))}",
            why=f"{family.model_type} models do not give that here",
            hint="see: vidcomp methods",
            code="missing_signal",
        )
    return frozenset(method.needs)


def reduced(
    view: TokenView, plan: FramePlan, method: Method, config: OuterConfig
) -> tuple[Reduction, CompressedTokens]:
    """Let the method decide about the encoded slices; say it about all slices; gather and merge."""
    slices, (encoded, tokens) = plan.source.numel(), view.features.shape[:2]
    device = view.features.device
    keep = config.keep * slices / encoded  # the budget counts all slices
    if keep >= 1:
        reduction = identity(encoded, tokens, device)
        merged = CompressedTokens(view.features.flatten(0, 1), reduction.anchors, reduction.members,
                                  tuple(level.flatten(0, 1) for level in view.deepstack))  # fmt: skip
    else:
        settled = method.at(config.keep) if hasattr(method, "at") else method  # defaults follow the request
        reduction = settled(view, keep)
        if config.positions == "keep":
            reduction = reduction.in_raster_order()
        merged = apply_reduction(view, reduction)
    if encoded < slices:
        reduction = compose(plan.encode.to(device), plan.source.to(device), reduction, tokens)
    return reduction, replace(merged, positions=reduction.anchors, members=reduction.members)
