# SPDX-License-Identifier: Apache-2.0
"""vidcomp report: what each stage removed, cost and saved."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vidcomp.cli.console import Ui, data, out_console
from vidcomp.cli.notes import model_notes
from vidcomp.cli.options import ALL_GROUPS, path_argument, with_config, with_ui
from vidcomp.cli.warm.command import NoWarm
from vidcomp.config import RunConfig
from vidcomp.errors import UsageError
from vidcomp.video.names import display_name

if TYPE_CHECKING:
    from rich.console import RenderableType

    from vidcomp.core.trace import TokenTrace
    from vidcomp.engine.decoder import AttentionBalance
    from vidcomp.engine.run import VideoLM
    from vidcomp.engine.videos import EncodedVideo
    from vidcomp.result import Answer

__all__ = ["report"]


@with_ui
@with_config(*ALL_GROUPS)
def report(
    video: Annotated[Path, path_argument("video file")],
    question: Annotated[str, typer.Argument(help="what to ask about it")] = "describe the video.",
    attention: Annotated[
        bool, typer.Option("--attention", help="also ask the uncompressed model, and print what both answers look at")
    ] = False,
    picture: Annotated[
        Path | None,
        typer.Option("--picture", help="draw the frames with their patches, as .png or .svg", readable=False),
    ] = None,
    probe_drift: Annotated[
        bool, typer.Option("--probe-drift", help="also encode some frames without --reuse, and compare the tokens")
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option("--html", help="write a page that shows what became of every patch", readable=False),
    ] = None,
    no_warm: NoWarm = False,
    *,
    config: RunConfig,
    ui: Ui,
) -> None:
    """Ask, and print what every stage removed: tokens, seconds, KV bytes, LLM FLOPs, span by span."""
    from vidcomp.cli.session import open_model
    from vidcomp.report.page import require_picture, write_page, write_picture

    if picture is not None:
        require_picture(picture)
    balances: tuple[AttentionBalance, AttentionBalance | None] | None = None
    with open_model(config, ui, video, question) as lm:
        from vidcomp.engine.trace import traced
        from vidcomp.report import make_report, render_report
        from vidcomp.report.attention import attention_record, render_attention
        from vidcomp.report.drift import tower_drift
        from vidcomp.report.timeline import Timeline

        encoded = lm.encode(video) if attention or probe_drift else None
        if attention and encoded:
            answer, trace, balances = _looked_at(lm, encoded, question)
        else:
            answer, trace = traced(lm, encoded or video, question)
        made = make_report(answer.ledger, lm.family.shape)
        drift = tower_drift(lm.family, encoded) if probe_drift and encoded else None
    if picture is not None:
        write_picture(answer, trace, picture)
        ui.note(f"picture: {display_name(picture)}")
    if html is not None:
        write_page(answer, trace, made, html)
        ui.note(f"page: {display_name(html)}")
    if ui.json:
        more: dict[str, Any] = {"attention": attention_record(*balances)} if balances else {}
        more |= {"drift": asdict(drift)} if drift else {}
        whole = {**made.to_dict(), "spans": [span.__dict__ for span in answer.ledger.spans], **more}
        data({**answer.to_dict(), "report": whole, "notes": [*model_notes(config.model.model), *answer.notes]})
        return
    _print(answer, render_report(made, answer.ledger), drift.words if drift else "", Timeline(trace))
    if balances:
        out_console().print(render_attention(*balances))


def _print(answer: Answer, tables: RenderableType, drift: str, timeline: RenderableType) -> None:
    """The report in the terminal, top to bottom."""
    console = out_console()
    console.print(f"{answer.question}  ->  {answer.text}", markup=False)
    if answer.frames.degraded:
        console.print(f"degraded: {answer.frames.degraded}", markup=False)
    for line in answer.notes:
        console.print(f"note: {line}", markup=False)
    console.print(tables)
    if drift:
        console.print(drift, markup=False)
    console.print(timeline)


def _looked_at(
    lm: VideoLM, encoded: EncodedVideo, question: str
) -> tuple[Answer, TokenTrace, tuple[AttentionBalance, AttentionBalance | None]]:
    """Ask as configured and without compression, over one pass of the vision tower."""
    from vidcomp.engine.decoder import AttentionBalance
    from vidcomp.engine.trace import traced

    compressed = AttentionBalance()
    answer, trace = traced(lm, encoded, question, balance=compressed)
    plain = AttentionBalance()
    try:
        lm.ask(encoded, question, method="none", inner="none", keep=1.0, balance=plain)
    except UsageError as error:
        if error.code != "too_long":
            raise
        return answer, trace, (compressed, None)  # the whole video does not fit this model
    return answer, trace, (compressed, plain)
