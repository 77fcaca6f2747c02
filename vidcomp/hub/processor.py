# SPDX-License-Identifier: Apache-2.0
"""The video processor's settings in the JSON files of a checkpoint: how many frames, and which. Loads no library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from vidcomp.core import index
from vidcomp.core.published import PUBLISHED
from vidcomp.core.stock_rules import StockRule
from vidcomp.hub.folders import (
    checkpoint_config,
    local_folder,
    published,
    read_json,
    settings_folder,
    unsupported_family,
)

__all__ = ["DEFAULT_FRAMES", "customary_frames", "sampling_facts", "stock_rule", "video_settings"]

DEFAULT_FRAMES = 32  # the customary number in the literature, for checkpoints that do not name one


def video_settings(folder: Path) -> dict[str, Any]:
    """Settings of the video processor, looked up where the library looks them up; pixel limits as a size."""
    nested = read_json(folder / "processor_config.json").get("video_processor")
    found = dict(
        nested or read_json(folder / "video_preprocessor_config.json") or read_json(folder / "preprocessor_config.json")
    )
    limits = {"shortest_edge": found.get("min_pixels"), "longest_edge": found.get("max_pixels")}  # older spelling
    limits = {edge: pixels for edge, pixels in limits.items() if pixels is not None}
    return {**found, "size": {**(found.get("size") or {}), **limits}} if limits else found


def customary_frames(settings: Mapping[str, Any]) -> int:
    """Frames to sample when the user names no number."""
    return int(settings.get("num_frames") or DEFAULT_FRAMES)


def stock_rule(family: StockRule, settings: Mapping[str, Any]) -> StockRule:
    """The rule of ``--sample model``: the family's own rule with the numbers of a checkpoint.

    A processor that names neither a number nor a rate takes every frame; here the customary number is taken then.
    """
    names = {"num_frames": "frames", "fps": "fps", "min_frames": "min_frames", "max_frames": "max_frames"}
    given = {field: settings[name] for name, field in names.items() if settings.get(name) is not None}
    rule = replace(family, **given)
    return rule if rule.frames or rule.fps else replace(rule, frames=customary_frames(settings))


def sampling_facts(model: str, *, offline: bool = False, revision: str | None = None) -> tuple[int, StockRule]:
    """Number of frames that a model gets when none is given, and its own rule. Loads no weights.

    Published checkpoints are known by a table. Of others the JSON files are read, those of a hub repository after a
    download where they are not in the cache.

    Raises:
        ModelError: no such model, not reachable, or of a family that is not supported.
    """
    if local_folder(model) is None and revision is None:
        for row in PUBLISHED.values():
            if row.checkpoint == published(model):
                return DEFAULT_FRAMES, row.stock
    kind = str(checkpoint_config(model, offline=offline, revision=revision).get("model_type"))
    settings = video_settings(settings_folder(model, offline=offline, revision=revision))
    stock = next((row["stock"] for row in index.stored(index.FAMILIES) if row["model_type"] == kind), None)
    if stock is None:
        raise unsupported_family(kind, model)
    return customary_frames(settings), stock_rule(StockRule(**stock), settings)
