# SPDX-License-Identifier: Apache-2.0
"""Numbers that are not finite, found behind the vision tower and behind the language model."""

from __future__ import annotations

import torch
from torch import Tensor

from vidcomp.core.tokens import TokenView
from vidcomp.errors import ModelError

__all__ = ["check_finite", "check_finite_rows", "not_finite"]

_STAGES = {
    "features": "the visual tokens, behind the vision tower and its projector",
    "frame_features": "the frame features",
    "query": "the embeddings of the question",
    "encoder_features": "the output of the vision tower",
}


def check_finite(view: TokenView) -> None:
    """Raise ModelError unless every feature and signal is finite: one wait for the device.

    What goes wrong first is named: signals of the tower before the features, which come from it.
    """
    values = {**{name: value for name, value in view.signals.items() if name != "query"}, "features": view.features}
    values |= {f"DeepStack level {number}": level for number, level in enumerate(view.deepstack)}
    if view.query is not None and view.query.numel():
        values["query"] = view.query
    floats = {name: value for name, value in values.items() if value.is_floating_point() and value.numel()}
    for name, extremes in zip(floats, _extremes(list(floats.values())), strict=True):
        if not all(map(_is_finite, extremes)):
            raise not_finite(_STAGES.get(name, f"{name} of the vision tower"), floats[name].dtype)


def check_finite_rows(rows: Tensor) -> None:
    """Raise ModelError unless visual rows [R, D] are finite, for models that run as they are."""
    if rows.numel() and not all(map(_is_finite, _extremes([rows])[0])):
        raise not_finite(_STAGES["features"], rows.dtype)


def _extremes(values: list[Tensor]) -> list[list[float]]:
    """Least and largest of each, NaN where there is one, in one transfer."""
    pairs = [torch.stack(value.detach().aminmax()).float().to(values[0].device) for value in values]
    found: list[list[float]] = torch.stack(pairs).tolist()
    return found


def _is_finite(number: float) -> bool:
    return abs(number) < float("inf")


def not_finite(what: str, dtype: torch.dtype) -> ModelError:
    """The error for a stage whose numbers are not finite."""
    name = str(dtype).removeprefix("torch.")
    why = (
        "float16 ends at 65504, and this model goes beyond"
        if dtype == torch.float16
        else (f"the model ran in {name}: weights that are damaged, or a video that it cannot take")
    )
    hint = "--dtype float32, or download the weights again" if dtype == torch.bfloat16 else "--dtype bfloat16"
    return ModelError(f"{what} are not finite", why=why, hint=hint, code="not_finite")
