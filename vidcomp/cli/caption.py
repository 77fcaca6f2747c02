# SPDX-License-Identifier: Apache-2.0
"""vidcomp caption: one sentence about each of many videos."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vidcomp.cli.console import Ui, data
from vidcomp.cli.notes import counted
from vidcomp.cli.options import ALL_GROUPS, path_argument, with_config, with_ui
from vidcomp.cli.signals import Interrupted
from vidcomp.config import RunConfig
from vidcomp.errors import BatchFailures, UsageError
from vidcomp.video.names import display_name

if TYPE_CHECKING:
    from vidcomp.batch.captions import Outcome

__all__ = ["caption"]

OTHER_FORMATS = frozenset(".ass .csv .htm .html .md .parquet .srt .tsv .vtt .xlsx .xml".split())


@with_ui
@with_config(*ALL_GROUPS)
def caption(
    paths: Annotated[list[Path], path_argument("files and folders, searched recursively")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="results file, one JSON line per video", readable=False)
    ] = None,
    prompt: Annotated[str, typer.Option("--prompt", help="what to ask about each video")] = "describe the video.",
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="do again what failed in an earlier run")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="do everything again")] = False,
    *,
    config: RunConfig,
    ui: Ui,
) -> None:
    """Caption videos. Without -o, captions go to stdout; with it, a second run skips what is done."""
    from vidcomp.batch.captions import caption_videos
    from vidcomp.batch.discover import find_videos
    from vidcomp.cli.progress import Progress
    from vidcomp.cli.session import check_names, open_model

    check_names(config, prompt)
    _require_lines(output)
    found = find_videos(paths)
    if found.left_out:
        ui.note(found.left_out)
    outcomes = caption_videos(
        lambda: open_model(config, ui, question=prompt), found.videos, prompt, config.flat(), output,
        retry_failed=retry_failed, force=force, tell=lambda line: ui.note(f"note: {line}"),
    )  # fmt: skip
    counts: Counter[str] = Counter()
    try:
        with Progress("captioned", len(found.videos), ui) as progress:
            for outcome in outcomes:
                _show(outcome, output, ui)
                failed = outcome.status == "failed"
                counts["failed" if failed else "before" if outcome.skipped else "done"] += 1
                progress.advance(display_name(outcome.path.name), failed=failed, skipped=outcome.skipped)
    except KeyboardInterrupt:
        if output is None:
            raise
        raise Interrupted(f"{counted(counts.total(), 'video')} saved, the same command goes on") from None
    _finish(counts, output, ui)


def _require_lines(output: Path | None) -> None:
    if output is not None and output.suffix.lower() in OTHER_FORMATS:
        raise UsageError(
            f"-o {display_name(output)}",
            why="a results file holds JSON lines, whatever its name says",
            hint=f"-o {display_name(output.with_suffix('.jsonl'))}, and make the other format of it",
            code="bad_option",
        )


def _show(outcome: Outcome, output: Path | None, ui: Ui) -> None:
    name, record = display_name(outcome.path), outcome.record
    if outcome.status == "failed":
        error = {"what": "", "why": "", **dict(record.get("error") or {})}
        reason = ": ".join(filter(None, (error["what"], error["why"])))
        ui.failure(f"failed{' before' if outcome.skipped else ''}  {name}  ({reason})")
    if outcome.skipped:
        return
    for line in record.get("notes", ()):
        ui.note(f"note    {name}  ({line})")
    if ui.json:
        data(record)
    elif output is None and outcome.status != "failed":
        data(f"{name}: {record['caption']}")


def _finish(counts: Counter[str], output: Path | None, ui: Ui) -> None:
    where = f" -> {display_name(output)}" if output else ""
    ui.note(f"{counts['done']} done, {counts['before']} done before, {counts['failed']} failed{where}")
    if counts["failed"]:
        raise BatchFailures(
            f"{counts['failed']} of {counted(counts.total(), 'video')} failed",
            why=f"{display_name(output)} names them too, with their reasons" if output else "their reasons are above",
            hint="the same command with --retry-failed" if output else "vidcomp ask FILE QUESTION",
        )
