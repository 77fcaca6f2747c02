# SPDX-License-Identifier: Apache-2.0
"""vidcomp caption: one sentence about each of many videos."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import closing
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vidcomp.cli.console import Ui, data
from vidcomp.cli.notes import counted
from vidcomp.cli.options import ALL_GROUPS, path_argument, with_config, with_ui
from vidcomp.cli.outputs import Form, Output
from vidcomp.cli.progress import Progress
from vidcomp.cli.signals import Interrupted
from vidcomp.cli.warm.command import NoWarm
from vidcomp.config import RunConfig
from vidcomp.errors import BatchFailures, OutOfMemory, UsageError
from vidcomp.video.names import display_name

if TYPE_CHECKING:
    from vidcomp.batch.captions import Outcome
    from vidcomp.batch.tasks import FailureLimit, OnWindow

__all__ = ["caption"]

TIMED = frozenset({Form.srt, Form.vtt, Form.html})  # formats that tell when, also of a whole video


class Context(StrEnum):
    """The words that a window gets of the one before."""

    none = "none"
    previous = "previous"


@with_ui
@with_config(*ALL_GROUPS)
def caption(
    paths: Annotated[list[Path], path_argument("files and folders, searched recursively")],
    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            metavar="PATH",
            help="results file, one JSON line per video; or x.srt, x.vtt, x.csv ...; or a folder/, which several "
            "processes may share",
        ),
    ] = None,
    prompt: Annotated[str, typer.Option("--prompt", help="what to ask about each video")] = "describe the video.",
    every: Annotated[
        str | None,
        typer.Option("--every", help="a caption per window: scene (at cuts), auto (at cuts, 2 to 30 s), or 30s"),
    ] = None,
    least: Annotated[str | None, typer.Option("--min", help="join windows of --every that are shorter: 2s")] = None,
    most: Annotated[str | None, typer.Option("--max", help="divide windows of --every that are longer: 30s")] = None,
    told: Annotated[
        Context, typer.Option("--context", help="what a window is told: nothing, or the caption of the one before")
    ] = Context.none,
    form: Annotated[
        Form | None, typer.Option("--format", help="format of the captions (default: by the name of -o)")
    ] = None,
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
    shard: Annotated[
        str | None,
        typer.Option("--shard", help="one part of the videos, by their names: 3/16 on the third of 16 machines"),
    ] = None,
    takeover: Annotated[
        float,
        typer.Option("--takeover", help="seconds of silence after which another process's work is taken over", min=0.1),
    ] = 45.0,
    no_warm: NoWarm = False,
    *,
    config: RunConfig,
    ui: Ui,
) -> None:
    """Caption videos. Without -o, captions go to stdout; with it, a second run skips what is done."""
    from vidcomp.batch.captions import caption_videos, in_this_process, in_workers
    from vidcomp.batch.claims import Lease
    from vidcomp.batch.discover import find_videos
    from vidcomp.batch.jobs import models_of
    from vidcomp.batch.shards import Shard
    from vidcomp.batch.tasks import FailureLimit, Windows
    from vidcomp.batch.workers import Plan, planned
    from vidcomp.cli.session import check_names, open_model
    from vidcomp.video.windows import Every

    check_names(config, prompt)
    limit, part = FailureLimit.parse(max_failures), Shard.parse(shard)
    places = planned(workers, devices, workers_per_device, config)
    divided = Every.parse(every, least, most)
    if every is None and told is not Context.none:
        raise UsageError("--context without --every", why="there is one window only", hint="--every scene",
                         code="bad_option")  # fmt: skip
    found = find_videos(paths)
    out = Output.settled(form, output, found.videos, paths, force)
    windows = None
    if every is not None or out.form in TIMED:
        windows = Windows(divided, told is Context.previous, out.form is Form.html, out.logs)
    if found.left_out:
        ui.note(found.left_out)
    videos = part.of(found.videos, paths)
    progress = Progress("captioned", len(videos), ui)
    if len(places) > 1:
        plan = Plan(places, decode_ahead, patience, _threads(places))
        answers = in_workers(config, plan, prompt, _within(progress))
    else:
        config = config.replace(device=places[0])
        answers = in_this_process(
            lambda: open_model(config, ui, question=prompt), prompt, decode_ahead, _within(progress)
        )  # fmt: skip
    outcomes = caption_videos(
        answers, list(videos), prompt, config.flat(), out.journal, names=list(videos.values()),
        models=models_of(config) if out.journal else {}, retry_failed=retry_failed, force=force, windows=windows,
        lease=Lease(takeover) if out.shared else None, tell=lambda line: ui.note(f"note: {line}"),
    )  # fmt: skip
    counts: Counter[str] = Counter()
    try:
        _follow(outcomes, progress, len(videos), counts, limit, out, ui)
    except KeyboardInterrupt:
        if output is None:
            raise
        raise Interrupted(f"{counted(counts.total(), 'video')} saved, the same command goes on") from None
    _finish(counts, out.place, ui)


def _within(progress: Progress) -> OnWindow:
    return lambda task, text: progress.within(display_name(task.path.name), text)


def _follow(
    outcomes: Generator[Outcome, None, None],
    progress: Progress,
    total: int,
    counts: Counter[str],
    limit: FailureLimit,
    out: Output,
    ui: Ui,
) -> None:
    """Show outcomes as they come, and count them in ``counts``: ``done``, ``before`` and ``failed``.

    Raises:
        BatchFailures: more failed than the limit allows. OutOfMemory: all that were tried did for lack of memory.
    """
    codes: Counter[str] = Counter()
    with closing(outcomes), progress:
        for outcome in outcomes:
            _show(outcome, out, ui)
            out.take(outcome.path, outcome.record)
            failed = outcome.status == "failed"
            counts["failed" if failed else "before" if outcome.skipped else "done"] += 1
            progress.advance(display_name(outcome.path.name), failed=failed, skipped=outcome.skipped)
            if failed and not outcome.skipped:
                codes[dict(outcome.record.get("error") or {}).get("code", "")] += 1
                if limit.exceeded(codes.total(), total):
                    raise _hopeless(codes.total(), counts.total(), limit)
    if text := out.finish():
        data(text)
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


def _show(outcome: Outcome, out: Output, ui: Ui) -> None:
    name, record = display_name(outcome.path), outcome.record
    if outcome.status == "failed":
        error = {"what": "", "why": "", **dict(record.get("error") or {})}
        reason = ": ".join(filter(None, (error["what"], error["why"])))
        ui.failure(f"failed{' before' if outcome.skipped else ''}  {name}  ({reason})")
    if outcome.skipped:
        return
    for line in record.get("notes", ()):
        ui.note(f"note    {name}  ({line})")
    if ui.json or (out.place is None and out.form is Form.json):
        data(record)
    elif out.place is None and out.form is None and outcome.status != "failed":
        data(f"{name}:\n{out.text(record)}\n" if "segments" in record else f"{name}: {record['caption']}")


def _finish(counts: Counter[str], output: Path | None, ui: Ui) -> None:
    where = f" -> {display_name(output)}" if output else ""
    ui.note(f"{counts['done']} done, {counts['before']} done before, {counts['failed']} failed{where}")
    if counts["failed"]:
        raise BatchFailures(
            f"{counts['failed']} of {counted(counts.total(), 'video')} failed",
            why=f"{display_name(output)} names them too, with their reasons" if output else "their reasons are above",
            hint="the same command with --retry-failed" if output else "vidcomp ask FILE QUESTION",
        )
