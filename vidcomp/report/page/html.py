# SPDX-License-Identifier: Apache-2.0
"""The page: one HTML file with pictures, figures and data of one answer; it loads nothing and reads without scripts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray

from vidcomp.core.trace import Fate, TokenTrace
from vidcomp.report.lines import Report
from vidcomp.report.page.canvas import data_uri, jpeg
from vidcomp.report.page.contact import FATES, cell_boxes, shown_frames, slice_of_frame, write_bytes
from vidcomp.report.table import quantity, size

if TYPE_CHECKING:
    from vidcomp.result import Answer

__all__ = ["fate_paths", "frame_uri", "page_data", "rendered", "write_page"]

_SIDE = 480  # pixels, longer side of an embedded frame
_BYTES = 5 << 20  # of all frames together, before base64
_CURVE = (720.0, 90.0)


def write_page(answer: Answer, trace: TokenTrace, report: Report, file: Path) -> None:
    """Write the page of an answer, whole or not at all.

    Args:
        answer: with its frames and its ledger.
        trace: what became of its tokens.
        report: its stages with their costs.
        file: the page.

    Raises:
        InputError: the file cannot be written (``unwritable``).
    """
    shown = list(shown_frames(len(trace.times)))
    data = page_data(answer, trace, report)
    page = rendered(
        "page.html.j2", data, script=Markup(_text("page.js")), answer=answer, report=report, ledger=answer.ledger,
        frames=list(_frames(answer, trace, shown)), grid=trace.grid, counts=trace.counts(), curve=_curve(trace),
        fates={fate.name.lower(): words for fate, (words, *_) in FATES.items()}, settings=answer.settings,
        widest=max(1, *(stage.out for stage in answer.ledger.stages if stage.unit == "tokens")),
        thinned=len(shown) < len(trace.times),
    )  # fmt: skip
    write_bytes(file, page)


def rendered(template: str, data: dict[str, Any], **values: Any) -> bytes:
    """Fill in a template of this folder, which finds ``data`` as it is, and ``embedded`` as harmless JSON."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"quantity": quantity, "size": size}
    page = environment.from_string(_text(template)).render(
        data=data, embedded=Markup(_harmless(data)), css=Markup(_text("page.css")), **values
    )
    return page.encode("utf-8", "replace")


def _text(name: str) -> str:
    return (files("vidcomp.report.page") / name).read_text(encoding="utf-8")


def page_data(answer: Answer, trace: TokenTrace, report: Report) -> dict[str, Any]:
    """The data of a page: the record of ``report --json`` with the tokens beside it."""
    spans = [asdict(span) for span in answer.ledger.spans]
    return {
        **answer.to_dict(),
        "report": {**report.to_dict(), "spans": spans},
        "tokens_by_fate": trace.to_dict(),
    }


def _harmless(data: dict[str, Any]) -> str:
    """JSON that cannot end the element it stands in."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _frames(answer: Answer, trace: TokenTrace, shown: list[int]) -> Iterator[dict[str, Any]]:
    for frame in shown:
        index, pixels = slice_of_frame(trace, frame), answer.frames.pixels[frame]
        fates = trace.fates[index]
        yield {
            "index": frame, "slice": index, "time": trace.times[frame], "uri": frame_uri(pixels, len(shown)),
            "height": pixels.shape[0], "width": pixels.shape[1], "encoded": index in trace.encoded,
            "counts": {fate.name.lower(): int((fates == fate).sum()) for fate in Fate},
            "paths": fate_paths(trace, index),
        }  # fmt: skip


def frame_uri(pixels: NDArray[np.uint8], shown: int) -> str:
    """A frame as an embedded picture, smaller where ``shown`` of them would make the page too large."""
    qualities = (jpeg(pixels, side, quality) for side, quality in ((_SIDE, 80), (_SIDE, 50), (240, 50)))
    picture = next((content for content in qualities if len(content) <= _BYTES // shown), None)
    return data_uri(picture or jpeg(pixels, 160, 40))


def fate_paths(trace: TokenTrace, index: int) -> dict[str, str]:
    """Patches of a slice, by fate, as SVG paths in a box of 1000 x 1000; outlines of the kept ones come last."""
    return {fate.name.lower(): _path(trace, index, fate) for fate in reversed(Fate)}


def _path(trace: TokenTrace, index: int, fate: Fate) -> str:
    """Patches of one fate as an SVG path in a box of 1000 x 1000."""
    cells = cell_boxes(trace, index, fate, (0.0, 0.0, 1000.0, 1000.0))
    return "".join(f"M{x0:.4g} {y0:.4g}H{x1:.4g}V{y1:.4g}H{x0:.4g}Z" for x0, y0, x1, y1 in cells)


def _curve(trace: TokenTrace) -> dict[str, Any]:
    """The similarity of neighbouring slices over time, as points of a polyline."""
    (width, height), last = _CURVE, max(trace.times[-1] - trace.times[0], 1e-9)
    places = [(trace.times[first] - trace.times[0]) / last * width for first, _ in trace.members]
    low = min([0.0, *trace.similarity.tolist()])
    heights = [height * (1 - (value - low) / (1 - low)) for value in trace.similarity.tolist()]
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(places[1:], heights, strict=True))
    return {"width": width, "height": height, "points": points, "low": low, "places": places}
