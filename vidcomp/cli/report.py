"""vidcomp report: what each stage removed, cost and saved."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vidcomp.cli.console import Ui, data, out_console
from vidcomp.cli.notes import model_notes
from vidcomp.cli.options import ALL_GROUPS, with_config, with_ui
from vidcomp.config import RunConfig

__all__ = ["report"]


@with_ui
@with_config(*ALL_GROUPS)
def report(
    video: Annotated[Path, typer.Argument(help="video file", show_default=False)],
    question: Annotated[str, typer.Argument(help="what to ask about it")] = "describe the video.",
    *,
    config: RunConfig,
    ui: Ui,
) -> None:
    """Ask, and print what every stage removed: tokens, seconds, KV bytes, LLM FLOPs, span by span."""
    from vidcomp.cli.session import open_model
    from vidcomp.report import make_report, render_report

    with open_model(config, ui, video, question) as lm:
        answer = lm.ask(video, question)
        made = make_report(answer.ledger, lm.family.shape)
    if ui.json:
        spans = [span.__dict__ for span in answer.ledger.spans]
        data(
            {**answer.to_dict(), "report": {**made.to_dict(), "spans": spans}, "notes": model_notes(config.model.model)}
        )
        return
    console = out_console()
    console.print(f"{question}  ->  {answer.text}", markup=False)
    if answer.frames.degraded:
        console.print(f"degraded: {answer.frames.degraded}", markup=False)
    console.print(render_report(made, answer.ledger))
