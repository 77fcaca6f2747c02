# SPDX-License-Identifier: Apache-2.0
"""The page of a comparison: one table, and under each frame what every method kept of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidcomp.core.trace import Fate
from vidcomp.report.page.contact import FATES, shown_frames, slice_of_frame, write_bytes
from vidcomp.report.page.html import fate_paths, frame_uri, rendered

if TYPE_CHECKING:
    from vidcomp.core.trace import TokenTrace
    from vidcomp.report.compare import Comparison, Run

__all__ = ["write_comparison"]


def write_comparison(comparison: Comparison, settings: dict[str, Any], file: Path) -> None:
    """Write the page of a comparison, whole or not at all.

    Args:
        comparison: methods side by side.
        settings: all settings of the run, to repeat it.
        file: the page.

    Raises:
        InputError: the file cannot be written (``unwritable``).
    """
    data = {**comparison.to_dict(), "settings": settings}
    pixels, frames = comparison.encoded.frames.pixels, comparison.encoded.frames
    runs = [run for run in comparison.runs if run.trace is not None]
    shown = list(shown_frames(len(frames.times)))
    page = rendered(
        "compare.html.j2", data, comparison=comparison, runs=runs, settings=settings,
        size_of_frame=pixels.shape[1:3], thinned=len(shown) < len(frames.times),
        frames=[{"time": float(frames.times[i]), "uri": frame_uri(pixels[i], len(shown)),
                 "cells": list(_cells(runs, i))} for i in shown],
        fates={fate.name.lower(): words for fate, (words, *_) in FATES.items()},
    )  # fmt: skip
    write_bytes(file, page)


def _cells(runs: list[Run], frame: int) -> Iterator[dict[str, Any]]:
    for run in runs:
        trace: TokenTrace = run.trace  # type: ignore[assignment]
        index = slice_of_frame(trace, frame)
        kept = int((trace.fates[index] <= Fate.LEFT).sum())
        yield {"name": run.name, "paths": fate_paths(trace, index), "kept": kept, "of": trace.tokens}
