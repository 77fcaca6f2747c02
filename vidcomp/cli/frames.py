# SPDX-License-Identifier: Apache-2.0
"""vidcomp frames: which frames a sampling takes, and the pictures themselves."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vidcomp.cli.console import Ui, data
from vidcomp.cli.options import path_argument, with_config, with_ui
from vidcomp.config import ModelConfig, RunConfig, VideoConfig
from vidcomp.errors import InputError, UsageError
from vidcomp.video.files import open_video
from vidcomp.video.names import recorded_name

if TYPE_CHECKING:
    from vidcomp.video import Frames

__all__ = ["frames"]


@with_ui
@with_config(VideoConfig, only={ModelConfig: ("model", "revision", "offline")})
def frames(
    video: Annotated[Path, path_argument("video file")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="a new folder for the pictures, as PNG files", readable=False)
    ] = None,
    *,
    config: RunConfig,
    ui: Ui,
) -> None:
    """List the frames that ask would read: index, seconds, exact time; -o writes the pictures. Loads no model."""
    from vidcomp.video import read_frames
    from vidcomp.video.process.client import start_worker

    if output is not None:
        _require_new(output)
    os.close(open_video(video))
    start_worker()
    from vidcomp.hub.processor import sampling_facts
    from vidcomp.video.options import readers_of, sampling_of

    model = config.model
    sampling = sampling_of(config.video, *sampling_facts(model.model, offline=model.offline, revision=model.revision))
    found = read_frames(
        video, sampling, readers=readers_of(config.video), deadline_seconds=config.video.deadline,
        strict=config.video.strict,
    )  # fmt: skip
    names = [f"{index:06d}.png" for index in found.indices.tolist()]
    if output is not None:
        from vidcomp.video.pictures import write_pictures

        write_pictures(found.pixels, names, output)
    _show(found.wait(), [output / name for name in names] if output else [], ui)


def _require_new(output: Path) -> None:
    try:
        os.lstat(output)
    except FileNotFoundError:
        return
    except OSError as error:  # a name that is too long, a folder that is closed to us: said before anything is decoded
        raise InputError(
            f"cannot write {output}", why=error.strerror or str(error), hint="-o elsewhere", code="unwritable"
        ) from error
    raise UsageError(f"{output} exists", why="pictures go into a new folder", hint="name another one")


def _show(found: Frames, files: list[Path], ui: Ui) -> None:
    from vidcomp.video import display_name

    if ui.json:
        record = {"schema": 1, "status": found.status, "video": found.info.to_dict(), "frames": found.to_dict()}
        if found.degraded:
            record["degraded"] = found.degraded
        record["notes"] = list(found.info.notes)
        data({**record, "files": [recorded_name(file) for file in files]} if files else record)
        return
    names = [f"\t{display_name(file)}" for file in files] or [""] * len(found)
    for index, seconds, exact, name in zip(
        found.indices.tolist(), found.times.tolist(), found.exact_times, names, strict=True
    ):
        data(f"{index}\t{seconds:.6f}\t{exact}{name}")
    for line in found.info.notes:
        ui.note(f"note: {line}")
    if found.degraded:
        ui.note(f"degraded: {found.degraded}")
