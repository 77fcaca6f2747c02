"""The outer stage: signals for the view, the method's decision, and its merge."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from vidcomp.config import OuterConfig
from vidcomp.errors import UsageError
from vidcomp.methods.base import Method, reads
from vidcomp.models import Family
from vidcomp.positions import raster_policies
from vidcomp.spans import FramePlan
from vidcomp.tokens import CompressedTokens, Reduction, TokenView, apply_reduction, compose, identity

__all__ = ["ADDED", "completed", "reduced", "signals_to_collect"]

ADDED = frozenset({"frame_features", "query"})
"""Signals that do not come from the vision tower."""


def signals_to_collect(method: Method, family: Family) -> frozenset[str]:
    """What the tower has to tell for this method.

    Raises:
        UsageError: the method needs a signal that models of this family do not give.
    """
    missing = method.needs - family.signals - ADDED
    if missing:
        raise UsageError(
            f"method {method.name!r} needs {', '.join(sorted(missing))}",
            why=f"{family.model_type} models do not give that here",
            hint="see: vidcomp methods",
            code="missing_signal",
        )
    return reads(method, family.signals) & family.signals


def completed(
    view: TokenView, method: Method, family: Family, seen: Tensor | None = None, question: str | None = None
) -> TokenView:
    """The view with the signals in ``ADDED`` that the method reads.

    Args:
        view: what the tower told.
        method: the reader.
        family: embeds the question.
        seen: [T, F], what the segmenter saw of each slice of the view; the means of the features when None.
        question: plain text, None when it is not known yet.
    """
    asked = reads(method, ADDED)
    if "frame_features" in asked and view.frame_features is None:
        view = replace(view, frame_features=view.features.float().mean(1) if seen is None else seen)
    if "query" in asked and question is not None:
        ids = family.tokenizer(question, add_special_tokens=False, return_tensors="pt").input_ids[0]
        view = replace(view, query=family.embed(ids).detach())
    return view


def reduced(
    view: TokenView, plan: FramePlan, method: Method, config: OuterConfig
) -> tuple[Reduction, CompressedTokens]:
    """Let the method decide about the encoded slices; say it about all slices; gather and merge.

    Raises:
        UsageError: the method chooses tokens for a question, and the view carries none.
    """
    slices, (encoded, tokens) = plan.source.numel(), view.features.shape[:2]
    device = view.features.device
    keep = config.keep * slices / encoded  # the budget counts all slices
    if keep >= 1:
        reduction = identity(encoded, tokens, device)
        merged = CompressedTokens(view.features.flatten(0, 1), reduction.anchors, reduction.members,
                                  tuple(level.flatten(0, 1) for level in view.deepstack))  # fmt: skip
    else:
        if "query" in method.needs and view.query is None:
            raise UsageError(f"method {method.name!r} chooses tokens for a question", why="none was given",
                             hint="encode(video, question=...), or ask()", code="missing_question")  # fmt: skip
        settled = method.at(config.keep) if hasattr(method, "at") else method  # defaults follow the request
        with torch.no_grad():  # which tokens stay is no matter of gradients, what becomes of them is
            reduction = settled(_detached(view), keep)
        if config.positions in raster_policies:
            reduction = reduction.in_raster_order()
        merged = apply_reduction(view, reduction)
    if encoded < slices:
        reduction = compose(plan.encode.to(device), plan.source.to(device), reduction, tokens)
    return reduction, replace(merged, positions=reduction.anchors, members=reduction.members)


def _detached(view: TokenView) -> TokenView:
    if not view.features.requires_grad:
        return view
    return replace(view, features=view.features.detach(), deepstack=tuple(x.detach() for x in view.deepstack))
