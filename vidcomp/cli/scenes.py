# SPDX-License-Identifier: Apache-2.0
"""vidcomp scenes: where a film is cut, and how much each stretch repeats itself."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from vidcomp.cli.console import Ui, data, out_console
from vidcomp.cli.options import path_argument, with_config, with_ui
from vidcomp.config import RunConfig, VideoConfig
from vidcomp.video.names import display_name

__all__ = ["scenes"]


class Form(StrEnum):
    """Format of the list of scenes."""

    table = "table"
    csv = "csv"
    json = "json"
    edl = "edl"
    ffmetadata = "ffmetadata"


@with_ui
@with_config(only={VideoConfig: ("reader", "deadline", "strict")})
def scenes(
    video: Annotated[Path, path_argument("video file")],
    form: Annotated[Form, typer.Option("--format", help="how to write them")] = Form.table,
    *,
    config: RunConfig,
    ui: Ui,
) -> None:
    """List the stretches between cuts: times, key frame, share of frames that repeat. Loads no model."""
    from vidcomp.report.scenes import scenes_csv, scenes_edl, scenes_ffmetadata, scenes_table
    from vidcomp.video.options import readers_of
    from vidcomp.video.scene_list import list_scenes

    listed = list_scenes(
        video, readers=readers_of(config.video), deadline_seconds=config.video.deadline, strict=config.video.strict
    )
    if ui.json or form is Form.json:
        record = {"schema": 1, "status": listed.status, "video": listed.info.to_dict()}
        if listed.degraded:
            record["degraded"] = listed.degraded
        data({**record, "scenes": [scene.to_dict() for scene in listed.scenes], "notes": list(listed.notes)})
        return
    if form is Form.table:
        out_console().print(scenes_table(listed.scenes))
    elif form is Form.csv:
        data(scenes_csv(listed.scenes).rstrip("\n"))
    elif form is Form.edl:
        data(scenes_edl(listed.scenes, listed.info.fps, display_name(video.stem)).rstrip("\n"))
    else:
        data(scenes_ffmetadata(listed.scenes).rstrip("\n"))
    if listed.degraded:
        ui.note(f"degraded: {listed.degraded}")
