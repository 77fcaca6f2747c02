# SPDX-License-Identifier: Apache-2.0
"""vidcomp probe: what a file holds and what it would cost, without loading a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from vidcomp.cli.console import Ui, data, out_console, print_error
from vidcomp.cli.notes import counted
from vidcomp.cli.options import path_argument, with_config, with_ui
from vidcomp.config import RunConfig, VideoConfig
from vidcomp.errors import BatchFailures, VidcompError
from vidcomp.video.names import recorded_name

if TYPE_CHECKING:
    from vidcomp.report.prices import Price
    from vidcomp.report.sheet import Sheet
    from vidcomp.video.probe import Probe
    from vidcomp.video.readers.conform import Form

__all__ = ["probe"]


@with_ui
@with_config(VideoConfig)
def probe(
    paths: Annotated[list[Path], path_argument("video files, folders")],
    *,
    config: RunConfig,
    ui: Ui,
) -> None:
    """Say what files hold, whether they are whole, and what they would cost per model family. Loads no model."""
    from vidcomp.video.process.client import start_worker

    start_worker()  # it loads its libraries while this process loads its own
    from vidcomp.batch.discover import find_videos

    found = find_videos(paths)
    videos = found.videos
    if found.left_out:
        ui.note(found.left_out)
    failed = [path for path in videos if not _one(path, config.video, ui, alone=len(videos) == 1)]
    if failed:
        raise BatchFailures(f"{len(failed)} of {counted(len(videos), 'file')} cannot be read", code="batch_failures")


def _one(path: Path, video: VideoConfig, ui: Ui, alone: bool) -> bool:
    """Print one file; False when it cannot be read, which is an error of its own when it is the only one."""
    from vidcomp.report.prices import prices
    from vidcomp.video.probe import probe as look

    try:
        found = look(path, video.deadline)
    except VidcompError as error:
        if alone:
            raise
        if ui.json:
            data({"schema": 1, "status": "failed", "path": recorded_name(path), "error": error.to_dict()})
        else:
            print_error(error)
        return False
    priced = prices(found, video)
    if ui.json:
        status = "doubtful" if found.doubt else "ok"
        models = None if priced is None else [price.to_dict() for price in priced]
        data({"schema": 1, "status": status, **found.to_dict(), "models": models})
    else:
        _show(found, priced)
    return True


def _show(found: Probe, priced: list[Price] | None) -> None:
    from vidcomp.video.files import display_name

    console = out_console()
    console.print(display_name(found.path), markup=False, style="bold")
    for name, text in _facts(found).items():
        console.print(f"  {name:<11} {text}", markup=False)
    if priced is None:
        console.print("  cost        -")
    else:
        console.print(_table(priced))


def _facts(found: Probe) -> dict[str, str]:
    rate = f"{found.fps:.3f} per second{', variable' if found.variable_rate else ''}"
    rotated = f", stored rotated by {found.rotation} degrees" if found.rotation else ""
    hidden = f", {found.hidden} packets hidden by an edit list" if found.hidden else ""
    starts = f", starts at {float(found.start_seconds):.3f} s" if found.start_seconds else ""
    size = f"{found.width} x {found.height}{_stretched(found)}{rotated}" if all(found.stored) else "size not known"
    apart = f", at most {found.longest_gap:.2f} s apart" if len(found.keys) else " of those that are shown"
    facts = {
        "file": f"{found.container}, {found.file_bytes:,} bytes{', with sound' if found.sound else ''}",
        "picture": f"{found.codec} {found.pixel_format}, {size}",
        "shown": _shown(found.form),
        "length": f"{found.seconds:.3f} s{starts}",
        "frames": f"{found.frames_total}, {rate}{hidden}" if found.frames_total else "only decoding counts them",
        "key frames": f"{len(found.keys)}{apart}",
        "note": "; ".join(found.notes),
        "whole": found.doubt or "as far as its packets tell",
    }
    without = {"key frames"} if not found.frames_total else set()
    return {name: text for name, text in facts.items() if text and name not in without}


def _stretched(found: Probe) -> str:
    wide, high = found.form.pixel
    if wide == high:
        return ""
    what = "" if found.form.plausible else ", which is not plausible"
    return f", stored as {found.stored[0]} x {found.stored[1]} with pixels {wide}:{high}{what}"


def _shown(form: Form) -> str:
    """Conversions of its pictures beyond that, or may be; empty for ordinary ones."""
    kinds = (
        (form.bright, f"high dynamic range ({form.transfer}) is tone-mapped"),
        (form.wide and not form.bright, "wide colours (bt2020) are brought to bt.709"),
        (bool(form.fields), f"interlaced, {form.fields} field first: de-interlaced"),
        (form.alpha, "transparent parts are put on black"),
    )
    return "; ".join(text for holds, text in kinds if holds)


def _table(priced: list[Price]) -> Sheet:
    from vidcomp.report.sheet import Sheet
    from vidcomp.report.table import quantity, size

    table = Sheet("model, uncompressed", "frames", "visual tokens", "KV cache", "prefill FLOPs")
    for price in priced:
        cells = (price.frames, price.tokens, size(price.kv_bytes), quantity(price.prefill_flops))
        table.add_row(price.model, *map(str, cells))
    return table
