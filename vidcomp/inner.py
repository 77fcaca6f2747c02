"""The inner stage: which schedule runs in the language model, and what it may know about the visual rows."""

from __future__ import annotations

import torch
from torch import Tensor

from vidcomp.config import OuterConfig, parse_spec
from vidcomp.errors import UsageError
from vidcomp.inllm import Schedule, get_schedule
from vidcomp.methods import Method
from vidcomp.models import Family
from vidcomp.spans import FramePlan
from vidcomp.tokens import TokenView

__all__ = ["chosen_schedule", "visual_facts"]


def chosen_schedule(method: Method, config: OuterConfig, family: Family) -> Schedule | None:
    """The schedule that the configuration names, or the one that was published with the method.

    Raises:
        UsageError: unknown name or parameter, a layer or a signal that this model does not have.
    """
    name, parameters = parse_spec(config.inner)
    if name == "auto":  # keep = 1 is the plain model, unless an inner stage is asked for by name
        name = (method.inner or "none") if config.keep < 1 else "none"
    if name == "none":
        return None
    schedule = get_schedule(name, **parameters)
    depth = family.shape.layers
    try:
        schedule.layers(depth), schedule.frozen(depth), schedule.read_from(depth)
    except ValueError as error:
        raise UsageError(f"--inner {config.inner}", why=str(error), code="bad_option") from error
    missing = schedule.needs - family.signals
    if missing:
        raise UsageError(
            f"inner schedule {name!r} needs {', '.join(sorted(missing))}",
            why=f"{family.model_type} models do not give that here",
            hint="see: vidcomp methods",
            code="missing_signal",
        )
    return schedule


def visual_facts(
    schedule: Schedule | None, view: TokenView, plan: FramePlan, anchors: Tensor, separators: int
) -> dict[str, Tensor]:
    """What a schedule may know about the visual rows that enter the language model.

    Args:
        schedule: names the signals that it needs.
        view: the encoded slices, with signals [E, N].
        plan: which encoded slice each slice shows.
        anchors: [M], flat index t * N + n of each survivor, in the order of the rows.
        separators: how many separator rows follow them.

    Returns:
        Each [M + separators]: ``frame`` and ``place`` of each row, -1 for separators; the signals, 0 for separators.

    Raises:
        UsageError: the view lacks a signal.
    """
    if schedule is None:
        return {}
    tokens = view.features.shape[1]
    frame, place = anchors // tokens, anchors % tokens
    facts = {"frame": _followed(frame, -1, separators), "place": _followed(place, -1, separators)}
    for name in schedule.needs:
        signal: Tensor | None = getattr(view, name)
        if signal is None:
            raise UsageError(f"inner schedule {schedule.name!r} needs {name}", why="this video was encoded without it",
                             hint="name the schedule when the video is encoded", code="missing_signal")  # fmt: skip
        shown = plan.source.to(anchors.device)[frame]
        facts[name] = _followed(signal.to(anchors.device)[shown, place].float(), 0, separators)
    return facts


def _followed(values: Tensor, filler: int, count: int) -> Tensor:
    return torch.cat([values, values.new_full((count,), filler)])
