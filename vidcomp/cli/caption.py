# SPDX-License-Identifier: Apache-2.0
"""vidcomp caption: one sentence about each of many videos."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vidcomp.cli.console import Ui, data
from vidcomp.cli.notes import counted
from vidcomp.cli.options import ALL_GROUPS, path_argument, with_config, with_ui
from vidcomp.cli.signals import Interrupted
from vidcomp.config import RunConfig
from vidcomp.errors import BatchFailures, OutOfMemory, UsageError
from vidcomp.video.names import display_name

if TYPE_CHECKING:
    from vidcomp.batch.captions import Outcome
    from vidcomp.batch.tasks import FailureLimit

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
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="do again what failed before")] = False,
    force: Annotated[bool, typer.Option("--force", help="do everything again")] = False,
    max_failures: Annotated[
        str | None, typer.Option("--max-failures", help="stop when more videos fail: a number, or a share such as 10%")
    ] = None,
    workers: Annotated[
        str, typer.Option("--workers", help="processes with a model each; auto: one per GPU, or per four cores")
    ] = "1",
    devices: Annotated[
        str | None, typer.Option("--devices", help="devices to share the work among: cuda:0,cuda:1")
    ] = None,
    workers_per_device: Annotated[int, typer.Option("--workers-per-device", help="on each of --devices", min=1)] = 1,
    decode_ahead: Annotated[
        int, typer.Option("--decode-ahead", help="videos decoded before their turn, up to 256 MB each", min=0, max=16)
    ] = 1,
    patience: Annotated[
        float, typer.Option("--patience", help="seconds after which a worker that is busy with one video is ended")
    ] = 1800.0,
    *,
    config: RunConfig,
    ui: Ui,
) -> None:
    """Caption videos. Without -o, captions go to stdout; with it, a second run skips what is done."""
    from vidcomp.batch.captions import caption_videos, in_this_process, in_workers
    from vidcomp.batch.discover import find_videos
    from vidcomp.batch.tasks import FailureLimit
    from vidcomp.batch.workers import Plan, planned
    from vidcomp.cli.session import check_names, open_model

    check_names(config, prompt)
    _require_lines(output)
    limit = FailureLimit.parse(max_failures)
    places = planned(workers, devices, workers_per_device, config)
    found = find_videos(paths)
    if found.left_out:
        ui.note(found.left_out)
    if len(places) > 1:
        answers = in_workers(config, Plan(places, decode_ahead, patience, _threads(places)), prompt)
    else:
        config = config.replace(device=places[0])
        answers = in_this_process(lambda: open_model(config, ui, question=prompt), prompt, decode_ahead)
    outcomes = caption_videos(
        answers, found.videos, prompt, config.flat(), output,
        retry_failed=retry_failed, force=force, tell=lambda line: ui.note(f"note: {line}"),
    )  # fmt: skip
    counts: Counter[str] = Counter()
    try:
        _follow(outcomes, len(found.videos), counts, limit, output, ui)
    except KeyboardInterrupt:
        if output is None:
            raise
        raise Interrupted(f"{counted(counts.total(), 'video')} saved, the same command goes on") from None
    _finish(counts, output, ui)


def _follow(
    outcomes: Generator[Outcome, None, None],
    total: int,
    counts: Counter[str],
    limit: FailureLimit,
    output: Path | None,
    ui: Ui,
) -> None:
    """Show outcomes as they come, and count them in ``counts``: ``done``, ``before`` and ``failed``.

    Raises:
        BatchFailures: more failed than the limit allows. OutOfMemory: all that were tried did for lack of memory.
    """
    from vidcomp.cli.progress import Progress

    codes: Counter[str] = Counter()
    with closing(outcomes), Progress("captioned", total, ui) as progress:
        for outcome in outcomes:
            _show(outcome, output, ui)
            failed = outcome.status == "failed"
            counts["failed" if failed else "before" if outcome.skipped else "done"] += 1
            progress.advance(display_name(outcome.path.name), failed=failed, skipped=outcome.skipped)
            if failed and not outcome.skipped:
                codes[dict(outcome.record.get("error") or {}).get("code", "")] += 1
                if limit.exceeded(codes.total(), total):
                    raise _hopeless(codes.total(), counts.total(), limit)
    if codes["out_of_memory"] and codes["out_of_memory"] == counts.total() - counts["before"]:
        raise OutOfMemory("not enough memory for any of the videos", hint="a smaller --max-frames, or another --device")


def _threads(places: Sequence[str]) -> int | None:
    """Divide the cores among models on the CPU, so that their threads do not wait for one another."""
    return max(1, (os.cpu_count() or 1) // len(places)) if all(place in ("auto", "cpu") for place in places) else None


def _hopeless(failed: int, tried: int, limit: FailureLimit) -> BatchFailures:
    return BatchFailures(
        f"stopped: {failed} of {counted(tried, 'video')} failed", why=f"--max-failures {limit.text} allows no more",
        hint="look at the reasons above; the same command goes on",
    )  # fmt: skip


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
