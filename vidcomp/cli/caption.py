"""vidcomp caption: one sentence about each of many videos."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vidcomp.cli.console import Ui, data
from vidcomp.cli.options import ALL_GROUPS, path_argument, with_config, with_ui
from vidcomp.config import RunConfig
from vidcomp.errors import BatchFailures
from vidcomp.video.files import display_name

if TYPE_CHECKING:
    from vidcomp.batch.captions import Outcome

__all__ = ["caption"]


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
    from vidcomp.cli.session import check_request, open_model

    check_request(config, prompt)
    videos = find_videos(paths)
    outcomes = caption_videos(
        lambda: open_model(config, ui), videos, prompt, config.flat(), output, retry_failed=retry_failed, force=force
    )
    counts = {"done": 0, "skipped": 0, "failed": 0}
    for outcome in _progress(outcomes, len(videos), ui):
        counts["failed" if outcome.status == "failed" else "skipped" if outcome.skipped else "done"] += 1
        _show(outcome, output, ui)
    _finish(counts, output, ui)


def _progress(outcomes: Iterator[Outcome], total: int, ui: Ui) -> Iterable[Outcome]:
    """A bar on stderr where someone can see it."""
    if ui.quiet or not sys.stderr.isatty():
        yield from outcomes
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("captioning"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total)
        for outcome in outcomes:
            yield outcome
            bar.update(task, advance=1, description=display_name(outcome.path.name))


def _show(outcome: Outcome, output: Path | None, ui: Ui) -> None:
    if outcome.record is None:
        return
    if outcome.status == "failed":
        error = outcome.record["error"]
        reason = f"{error['what']}: {error['why']}" if error["why"] else error["what"]
        ui.note(f"failed  {display_name(outcome.path)}  ({reason})")
    for line in outcome.record.get("notes", ()):
        ui.note(f"note    {display_name(outcome.path)}  ({line})")
    if ui.json:
        data(outcome.record)
    elif output is None and outcome.status != "failed":
        data(f"{display_name(outcome.path)}: {outcome.record['caption']}")


def _finish(counts: dict[str, int], output: Path | None, ui: Ui) -> None:
    where = f" -> {display_name(output)}" if output else ""
    ui.note(f"{counts['done']} done, {counts['skipped']} done before, {counts['failed']} failed{where}")
    if counts["failed"]:
        raise BatchFailures(
            f"{counts['failed']} of {sum(counts.values())} videos failed",
            why=f"{output} names them with their reasons" if output else "their reasons are above",
            hint="the same command with --retry-failed" if output else "vidcomp ask FILE QUESTION",
        )
