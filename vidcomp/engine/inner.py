# SPDX-License-Identifier: Apache-2.0
"""The stages inside the networks: which merger runs in the vision tower, which schedule in the language model, and what
the schedule may know about the visual rows."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidcomp.config import OuterConfig, SpanConfig
from vidcomp.core.tokens import Reduction, TokenView
from vidcomp.errors import UsageError
from vidcomp.families import Encoded, Family, Layout
from vidcomp.methods import Method
from vidcomp.schedules import SCHEDULES, Schedule
from vidcomp.spans import FramePlan
from vidcomp.tower import MERGERS
from vidcomp.tower.host import TowerMerger, merging_tower, whole_clip
from vidcomp.tower.repeats import AUTO_LIMIT, RepeatedPatches
from vidcomp.tower.shared import SharedRows

__all__ = ["chosen_merger", "chosen_reuse", "chosen_schedule", "encoded_with", "shared_rows", "visual_facts"]


def chosen_schedule(method: Method, config: OuterConfig, family: Family) -> Schedule | None:
    """The schedule that the configuration names, or the one that was published with the method.

    Raises:
        UsageError: unknown name or parameter, a layer or a signal that this model does not have.
    """
    spec = config.inner
    if spec == "auto":
        spec = "none" if config.whole else method.inner or "none"
    schedule = SCHEDULES.build(spec)
    if schedule is None:
        return None
    depth = family.shape.layers
    try:
        schedule.layers(depth), schedule.frozen(depth), schedule.read_from(depth)
    except ValueError as error:
        raise UsageError(f"--inner {config.inner}", why=str(error), code="bad_option") from error
    missing = schedule.needs - family.signals
    if missing:
        raise UsageError(
            f"inner schedule {schedule.name!r} needs {', '.join(sorted(missing))}",
            why=f"{family.model_type} models do not give that here",
            hint="see: vidcomp methods",
            code="missing_signal",
        )
    return schedule


def chosen_merger(config: OuterConfig, family: Family, signals: frozenset[str]) -> TowerMerger | None:
    """The merger that the configuration names for the vision tower.

    Raises:
        UsageError: unknown name or parameter, a tower that cannot host it, or a signal that merging would spoil.
    """
    merger, what = MERGERS.build(config.encoder), f"--encoder {config.encoder}"
    if merger is None:
        return None
    layers = family.merging_layers
    if len(layers) < 2:
        raise UsageError(what, why=f"nothing can be merged in the tower of {family.model_type} models here",
                         hint="--encoder none", code="bad_option")  # fmt: skip
    try:
        merger.layers(len(layers) - 1)
    except ValueError as error:
        raise UsageError(what, why=str(error), code="bad_option") from error
    if "cls_by_layer" in signals:
        raise UsageError(what, why="the method looks at every layer of the tower, which must have all its rows then",
                         hint="--encoder none, or another method", code="missing_signal")  # fmt: skip
    return merger


def chosen_reuse(
    config: SpanConfig, family: Family, signals: frozenset[str], merger: TowerMerger | None
) -> float | None:
    """By how much a patch may differ and keep its row of the vision tower; None where rows are not shared.

    Raises:
        UsageError: it is asked for in numbers, and this tower, the merger or a signal does not allow it.
    """
    if config.reuse == "off":
        return None
    if family.sharing_tower is None:
        why, hint = f"rows of the tower cannot be shared in {family.model_type} models here", "--reuse off"
    elif merger is not None:
        why, hint = "a merger changes the same rows", "--encoder none, or --reuse off"
    elif "cls_by_layer" in signals:
        why = "the method looks at every layer of the tower, which must have all its rows then"
        hint = "--reuse off, or another method"
    else:
        return AUTO_LIMIT if config.reuse == "auto" else float(config.reuse)
    if config.reuse == "auto":
        return None
    raise UsageError(f"--reuse {config.reuse}", why=why, hint=hint, code="bad_option")


def shared_rows(family: Family, limit: float | None) -> SharedRows | None:
    """The rows that slices of one clip share, none yet; None without a limit."""
    tower = family.sharing_tower
    return None if limit is None or tower is None else SharedRows(tower, RepeatedPatches(limit))


def encoded_with(
    merger: TowerMerger | None,
    family: Family,
    frames: NDArray[np.uint8],
    layout: Layout,
    plan: FramePlan,
    signals: frozenset[str],
    shared: SharedRows | None = None,
) -> tuple[Encoded, FramePlan, list[int]]:
    """Encode the planned slices, with merging inside the tower if there is any.

    Args:
        merger: None for the plain tower.
        family: the model.
        frames: [F, h, w, 3], all frames.
        layout: how they become slices.
        plan: which slices are encoded.
        signals: what the tower has to tell.
        shared: the rows that slices share in a tower without merger.

    Returns:
        The slices that are left with their signals, the plan that says so of all slices, and how many rows each layer
        of the tower read (nothing for the plain tower).
    """
    wanted = layout.gather(frames, plan.encode.numpy())
    if merger is None:
        return family.encode(wanted, signals, layout, shared), plan, shared.rows if shared else []
    with whole_clip(family) if merger.over_frames else nullcontext():
        with merging_tower(family.merging_layers, merger) as run:
            encoded = family.encode(wanted, signals, layout)
    first = run.firsts
    if len(first) == len(wanted):
        return encoded, plan, run.rows
    left = {name: value[first.to(value.device)] for name, value in encoded.signals.items()}
    features = encoded.features[first.to(encoded.features.device)]
    plan = FramePlan(plan.encode[first], run.frames[plan.source])
    return replace(encoded, features=features, signals=left), plan, run.rows


def visual_facts(
    schedule: Schedule | None,
    view: TokenView,
    plan: FramePlan,
    anchors: Tensor,
    separators: int,
    reduction: Reduction | None = None,
) -> dict[str, Tensor]:
    """Facts that a schedule may use about the visual rows that enter the language model.

    Args:
        schedule: names the signals that it needs.
        view: the encoded slices, with signals [E, N].
        plan: which encoded slice each slice shows.
        anchors: [M], flat index t * N + n of each survivor, in the order of the rows.
        separators: how many separator rows follow them.
        reduction: the decision that they come from, which tells spans and what the survivors stand for.

    Returns:
        Each [M + separators]: ``frame`` and ``place`` of each row, -1 for separators; the signals, 0 for separators;
        with a reduction ``span`` and ``still`` as well.

    Raises:
        UsageError: the view lacks a signal.
    """
    if schedule is None:
        return {}
    tokens = view.features.shape[1]
    frame, place = anchors // tokens, anchors % tokens
    facts = {"frame": _followed(frame, -1, separators), "place": _followed(place, -1, separators)}
    if reduction is not None:
        starts = torch.tensor([span.start for span in reduction.spans[1:]], dtype=torch.int64, device=frame.device)
        facts["span"] = _followed(torch.searchsorted(starts, frame, right=True), 0, separators)
        facts["still"] = _followed(_frames_of(reduction, tokens).gt(1).long(), 0, separators)
    for name in schedule.needs:
        signal: Tensor | None = getattr(view, name)
        if signal is None:
            raise UsageError(f"inner schedule {schedule.name!r} needs {name}", why="this video was encoded without it",
                             hint="name the schedule when the video is encoded", code="missing_signal")  # fmt: skip
        shown = plan.source.to(anchors.device)[frame]
        facts[name] = _followed(signal.to(anchors.device)[shown, place].float(), 0, separators)
    return facts


def _frames_of(reduction: Reduction, tokens: int) -> Tensor:
    """Number of frames that each survivor stands for: [M]."""
    member = (reduction.assign >= 0).nonzero()[:, 0]
    frames = reduction.assign.numel() // tokens
    pairs = torch.zeros(reduction.kept, frames, dtype=torch.bool, device=member.device)
    pairs[reduction.assign[member], member // tokens] = True
    return pairs.sum(1)


def _followed(values: Tensor, filler: int, count: int) -> Tensor:
    return torch.cat([values, values.new_full((count,), filler)])
