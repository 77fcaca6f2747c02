# SPDX-License-Identifier: Apache-2.0
"""vidcomp compare: several methods on one video, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vidcomp.cli.console import Ui, data, out_console
from vidcomp.cli.notes import model_notes
from vidcomp.cli.options import ALL_GROUPS, method_list, path_argument, with_config, with_ui
from vidcomp.config import OuterConfig, RunConfig
from vidcomp.errors import UsageError
from vidcomp.report.sheet import Sheet
from vidcomp.video.names import display_name

if TYPE_CHECKING:
    from vidcomp.report.compare import Comparison, Run

__all__ = ["compare"]

_OUTER: dict[type, tuple[str, ...]] = {OuterConfig: ("keep", "keep_tokens", "encoder", "positions")}
_GROUPS = tuple(group for group in ALL_GROUPS if group is not OuterConfig)


@with_ui
@with_config(*_GROUPS, only=_OUTER)
def compare(
    video: Annotated[Path, path_argument("video file")],
    question: Annotated[str, typer.Argument(help="what to ask about it")] = "describe the video.",
    methods: Annotated[
        str,
        typer.Option(
            "--methods", help="names with commas between; name:parameter=value, and name+schedule for the inner stage"
        ),
    ] = "holitom,fastvid,visionzip,uniform",
    html: Annotated[
        Path | None, typer.Option("--html", help="write a page with the patches that each keeps", readable=False)
    ] = None,
    *,
    config: RunConfig,
    ui: Ui,
) -> None:
    """Ask with several methods and without any: what each keeps, answers and costs. The video is encoded once."""
    from vidcomp.cli.session import check_request, open_model
    from vidcomp.engine.outer import split_pair
    from vidcomp.report.compare import compare as compared
    from vidcomp.report.page import write_comparison

    names = list(dict.fromkeys(method_list(methods)))
    if "" in names:
        raise UsageError(f"--methods {methods}", why="there is an empty name", hint="--methods holitom,fastvid",
                         code="bad_option")  # fmt: skip
    for name in names:
        outer, inner = split_pair(name)
        check_request(config.replace(method=outer, inner=inner), None)
    with open_model(config, ui, video, question) as lm:
        result = compared(lm, video, question, names)
    if html is not None:
        write_comparison(result, config.flat(), html)
        ui.note(f"page: {display_name(html)}")
    if ui.json:
        data({**result.to_dict(), "notes": model_notes(config.model.model)})
    else:
        _print(result)


def _print(result: Comparison) -> None:
    console = out_console()
    table = Sheet("method", "enter", "at the end", "share", "outer s", "prefill s", "FLOPs", "KV cache", prose="answer")
    for run in (result.plain, *result.runs):
        table.add_row(*_cells(run, result.agrees(run)))
    console.print(table)
    for run in result.runs:
        for line in run.answer.ledger.notes if run.answer else ():
            console.print(f"{run.name}: {line}", markup=False)
    spent = ", ".join(f"{stage.name} {stage.seconds:.2f} s" for stage in result.encoded.ledger.stages)
    console.print(f"once for all: {spent}", markup=False)
    console.print("seconds are of one run each, the one on top being the first; vidcomp bench ask measures times")


def _cells(run: Run, agrees: bool | None) -> tuple[str, ...]:
    from vidcomp.report.table import quantity, size

    if run.answer is None or run.report is None:
        return (run.name, "", "", "", "", "", "", "", f"failed: {run.error}")
    tokens, cost, seconds = run.answer.ledger.tokens, run.report.actual, run.seconds
    differs = " (differs)" if agrees is False else ""
    return (
        run.name,
        str(tokens.kept),
        str(tokens.after_llm_layer),
        f"{run.answer.ledger.keep_actual:.1%}",
        f"{seconds['compress']:.3f}",
        f"{seconds['prefill']:.3f}",
        quantity(cost.flops),
        size(cost.kv_bytes),
        run.answer.text + differs,
    )
