# SPDX-License-Identifier: Apache-2.0
"""The outer stage: signals for the view, the method's decision, and its merge."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vidcomp.config import OuterConfig
from vidcomp.core.budget import token_budget
from vidcomp.core.tokens import CompressedTokens, Reduction, Span, TokenView, apply_reduction, compose, identity
from vidcomp.engine.finite import check_finite
from vidcomp.engine.positions import PositionPolicy
from vidcomp.engine.record import Recorder
from vidcomp.engine.videos import EncodedVideo
from vidcomp.errors import NotApplied, UsageError
from vidcomp.families import Encoded, Family, Layout
from vidcomp.methods.base import Method, described, reads, settled
from vidcomp.methods.blocks.fitted import fitted
from vidcomp.schedules import Schedule
from vidcomp.spans import FramePlan

__all__ = [
    "ADDED",
    "completed",
    "compressed",
    "outer_notes",
    "reads_question",
    "reduced",
    "signals_to_collect",
    "spans_of",
    "split_pair",
    "view_of",
]

ADDED = frozenset({"frame_features", "query"})
"""Signals that do not come from the vision tower."""

_UNLIKE = 0.2  # of the asked number: a difference that is noted
_ROUNDING = 4  # tokens, a difference that is never worth a word


def split_pair(name: str) -> tuple[str, str]:
    """``holitom+fastv:k=2`` is an outer method with an inner schedule; a method alone has its own (``auto``)."""
    outer, _, inner = name.partition("+")
    return outer, inner or "auto"


def signals_to_collect(method: Method, family: Family, schedule: Schedule | None = None) -> frozenset[str]:
    """Signals of the tower that this method and this schedule need.

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
    return (reads(method, family.signals) & family.signals) | (schedule.needs if schedule else frozenset())


def reads_question(method: Method) -> bool:
    """True if the method chooses other tokens for another question."""
    return "query" in reads(method, ADDED)


def view_of(encoded: Encoded, layout: Layout, plan: FramePlan) -> TokenView:
    """The slices that have rows as a method is shown them, without what :func:`completed` adds."""
    times = torch.tensor(layout.times, dtype=torch.float64)[plan.encode]
    signals: dict[str, Any] = dict(encoded.signals)
    return TokenView(encoded.features, layout.grid, times, deepstack=encoded.deepstack, **signals)


def completed(
    view: TokenView, method: Method, family: Family, seen: Tensor | None = None, question: str | None = None
) -> TokenView:
    """The view with the signals in ``ADDED`` that the method reads.

    Args:
        view: features and signals of the tower.
        method: the reader.
        family: embeds the question.
        seen: [T, F], what the segmenter saw of each slice of the view; the means of the features when None.
        question: plain text, None when it is not known yet.
    """
    asked = reads(method, ADDED)
    if "frame_features" in asked and view.frame_features is None:
        view = replace(view, frame_features=view.features.float().mean(1) if seen is None else seen)
    if "query" in asked and question is not None:
        ids = torch.tensor(family.spelling.ids(question), dtype=torch.long)
        view = replace(view, query=family.embed(ids).detach())
    return view


def spans_of(encoded: EncodedVideo, reduction: Reduction) -> Sequence[Span]:
    """The spans to report: those that the method worked in, else those that a segmenter found, else of one slice."""
    found = encoded.segments.spans if encoded.segments is not None else encoded.plan.spans
    return reduction.spans or found


def compressed(
    recorder: Recorder,
    view: TokenView,
    plan: FramePlan,
    method: Method,
    config: OuterConfig,
    seed: int = 0,
    seen: Tensor | None = None,
) -> tuple[Reduction, CompressedTokens]:
    """:func:`reduced`, with its time, its counts and :func:`outer_notes` recorded."""
    with recorder.timed():
        reduction, tokens = reduced(view, plan, method, config, seed)
    recorder.compressed(view.total, len(tokens), config.keep, outer_notes(reduction, plan, method, config, seen))
    return reduction, tokens


def reduced(
    view: TokenView, plan: FramePlan, method: Method, config: OuterConfig, seed: int = 0
) -> tuple[Reduction, CompressedTokens]:
    """Let the method decide about the encoded slices; say it about all slices; gather and merge.

    Args:
        view: the encoded slices, with the signals that the method reads.
        plan: which slices they are.
        method: decides.
        config: budget and positions, settled for this video; ``keep_tokens`` is met exactly where as many tokens were
            encoded.
        seed: of methods that draw.

    Raises:
        UsageError: the method chooses tokens for a question, and the view carries none.
        ModelError: the view is not finite.
        NotApplied: an exact method kept another number of tokens than it had promised.
    """
    check_finite(view)
    slices, (encoded, tokens) = plan.source.numel(), view.features.shape[:2]
    device = view.features.device
    keep = config.keep * slices / encoded  # the budget counts all slices
    if keep >= 1:  # every encoded slice fits
        reduction = identity(encoded, tokens, device)
        merged = CompressedTokens(view.features.flatten(0, 1), reduction.anchors, reduction.members,
                                  tuple(level.flatten(0, 1) for level in view.deepstack))  # fmt: skip
    else:
        if "query" in method.needs and view.query is None:
            raise UsageError(f"method {method.name!r} chooses tokens for a question", why="none was given",
                             hint="encode(video, question=...), or ask()", code="missing_question")  # fmt: skip
        with torch.no_grad():  # which tokens stay is no matter of gradients, what becomes of them is
            reduction = _decided(settled(method, config.keep, seed), _detached(view), keep)
            if config.keep_tokens is not None:
                reduction = fitted(_detached(view), reduction, min(config.keep_tokens, view.total))
        reduction = PositionPolicy(config.positions).ordered(reduction)
        merged = apply_reduction(view, reduction)
    if encoded < slices:
        reduction = compose(plan.encode.to(device), plan.source.to(device), reduction, tokens)
    return reduction, replace(merged, positions=reduction.anchors, members=reduction.members)


def _decided(method: Method, view: TokenView, keep: float) -> Reduction:
    """Ask the method to decide; one that promises a count is held to it."""
    reduction = method(view, keep)
    if getattr(method, "exact", False) and hasattr(method, "count"):
        promised = method.count(view.features.shape[0], view.grid, keep)
        if reduction.kept != promised:
            raise NotApplied(
                f"method {described(method)} kept {reduction.kept} tokens and had promised {promised}",
                why="its class says that the number is exact",
                hint="exact = False in its class, or another count()",
            )
    return reduction


def outer_notes(
    reduction: Reduction, plan: FramePlan, method: Method, config: OuterConfig, seen: Tensor | None = None
) -> Iterator[str]:
    """Notes that the caller would not expect of the outer stage, a line each.

    Args:
        reduction: the decision about all T * N tokens.
        plan: which slices were encoded.
        method: decided.
        config: the budget, settled for this video.
        seen: a segmenter's description of the frames, None where means of the model's own features stood in.

    A number of survivors is noted when it differs from the asked one by more than a fifth and by more than four tokens.
    """
    total, slices = reduction.assign.numel(), plan.source.numel()
    asked = token_budget(total, config.keep)
    slack = _ROUNDING if config.keep_tokens is None else 0
    if abs(reduction.kept - asked) > max(slack, _UNLIKE * asked if slack else 0):
        whole = reduction.kept == plan.encode.numel() * (total // slices) < total
        reason = "frames merged in the vision tower" if whole else _reason(method)
        kept = reduction.kept / total
        yield f"kept {_percent(kept)} of the tokens where {_percent(config.keep)} were asked for: {reason}"
    wanted: str | None = getattr(method, "frame_encoder", None)
    if wanted is not None and seen is None and not config.whole:
        yield (
            f"{method.name} compared frames by means of the model's own features; its thresholds were published for "
            f"a frame encoder: --segmenter {wanted}"
        )


def _reason(method: Method) -> str:
    if rule := getattr(method, "rule", ""):
        return f"{method.name} {rule}"
    counts = "has a count of its own" if getattr(method, "exact", False) else "goes by content"
    return f"{described(method)} {counts}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _detached(view: TokenView) -> TokenView:
    if not view.features.requires_grad:
        return view
    return replace(view, features=view.features.detach(), deepstack=tuple(x.detach() for x in view.deepstack))
