# SPDX-License-Identifier: Apache-2.0
"""The page of timed captions: one HTML file with a picture of every window, which loads nothing and has no script."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from vidcomp.report.subtitles import clock, cues_of, plain

__all__ = ["strip_page"]


def strip_page(record: Mapping[str, Any], title: str) -> str:
    """The page of a record; pictures are those that its segments hold.

    Args:
        record: of one video, failed ones too.
        title: name of the video, as text.
    """
    folder = files("vidcomp.report.page")
    text = {name: (folder / name).read_text(encoding="utf-8") for name in ("strip.html.j2", "page.css")}
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["clock"] = clock
    cues = cues_of(record)
    return environment.from_string(text["strip.html.j2"]).render(
        css=Markup(text["page.css"]), title=title, cues=cues, length=clock(cues[-1].end),
        question=plain(record["question"]), model=record.get("model", ""), method=record.get("method", ""),
        notes=[*filter(None, [record.get("degraded")]), *record.get("notes", ())],
    )  # fmt: skip
