# SPDX-License-Identifier: Apache-2.0
"""vidcomp bench accuracy: methods x keep ratios x question types on held-out videos of the embedded model's world."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vidcomp.cli.console import Ui, data, out_console
from vidcomp.cli.options import method_list, with_config, with_ui
from vidcomp.cli.progress import Progress
from vidcomp.config import ModelConfig, OuterConfig, RunConfig, SpanConfig
from vidcomp.core.options import option_of
from vidcomp.errors import UsageError
from vidcomp.report.sheet import Sheet

if TYPE_CHECKING:
    from vidcomp.bench.accuracy import AccuracyBench

__all__ = ["accuracy"]


PAIRS = (
    "holitom+none", "holitom+fastv:k=2", "holitom+pyramiddrop", "holitom+visiondrop", "holitom+shortv",
    "fastvid+fastv:k=2", "fastvid+holitom", "framefusion+none", "uniform+fastv:k=2", "uniform+pyramiddrop",
)  # fmt: skip
"""Methods with another inner schedule than their own, which ``--method all`` asks too."""


@with_ui
@with_config(SpanConfig, only={ModelConfig: ("quantize",)})
def accuracy(
    method: Annotated[
        str,
        typer.Option(
            "--method",
            help="methods, comma-separated, or all; holitom+fastv:k=2 is a pair; "
            "controls are random, uniform, frames, pool (resolution)",
            show_default="holitom, random, uniform, frames",
        ),
    ] = "holitom,random,uniform,frames",
    keep: Annotated[str, typer.Option("--keep", help="keep ratios, comma-separated")] = "1.0,0.5,0.25,0.15,0.1",
    questions: Annotated[int, typer.Option("--questions", help="how many questions", min=1)] = 500,
    seed: Annotated[int, typer.Option("--seed", help="which part of the held-out range", min=0, max=999)] = 0,
    equal_tokens: Annotated[
        bool, typer.Option("--equal-tokens", help="bring every method to exactly the budget, also those by content")
    ] = False,
    resume: Annotated[
        Path | None, typer.Option("--resume", help="journal; an interrupted run continues from it")
    ] = None,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="also write the table to this file")] = None,
    markdown: Annotated[Path | None, typer.Option("--markdown", help="also write a page with one table")] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="also draw accuracy against tokens: .svg or .png")] = None,
    *,
    config: RunConfig,
    ui: Ui,
) -> None:
    """Measure accuracy on videos that the embedded model has never seen, paired with the uncompressed run."""
    from vidcomp.methods import method_names

    every = ",".join((*(name for name in method_names() if name != "none"), *PAIRS))
    methods, keeps = method_list(every if method == "all" else method), [_keep(text) for text in keep.split(",")]
    if plot is not None and plot.suffix.lower() not in (".svg", ".png"):
        raise UsageError(f"--plot {plot}", why="the suffix must be .svg or .png", code="bad_option")
    from vidcomp.bench.accuracy import bench_accuracy
    from vidcomp.cli.session import check_request, open_model
    from vidcomp.engine.outer import split_pair

    for name in methods:
        outer, inner = split_pair(name)
        check_request(config.replace(method=outer, inner=inner), None)
    with open_model(config, ui) as lm, Progress("videos", None, ui) as progress:
        result = bench_accuracy(
            lm, methods, keeps, questions=questions, seed=seed, equal_tokens=equal_tokens, resume=resume,
            tick=progress.tick,
        )  # fmt: skip
    _write_files(result, csv_file, plot)
    if markdown is not None:
        from vidcomp.bench.page import accuracy_page

        asked = f"--method {method} --keep {keep} --questions {questions} --seed {seed}"
        asked += " --equal-tokens" if equal_tokens else ""
        page = accuracy_page(result.to_dict(), f"vidcomp bench accuracy {asked} --markdown {markdown}")
        markdown.write_text(page, encoding="utf-8")
    if ui.json:
        data(result.to_dict())
    else:
        _show(result)


def _keep(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise UsageError(f"--keep {text}", why="ratios are written 1.0,0.25,0.1", code="bad_option") from None
    option_of(OuterConfig.__dataclass_fields__["keep"]).check(value)
    return value


def _write_files(result: AccuracyBench, csv_file: Path | None, plot: Path | None) -> None:
    if csv_file is not None:
        rows = [row.to_dict() for row in result.rows]
        with open(csv_file, "w", newline="", encoding="utf-8") as file:
            flat = [{**row.pop("by_type"), **row, "difference": row["difference"][0]} for row in rows]
            writer = csv.DictWriter(file, list(flat[0]))
            writer.writeheader()
            writer.writerows(flat)
    if plot is not None:
        from vidcomp.bench.plot import plot_accuracy

        plot_accuracy(result.to_dict(), plot)


def _show(result: AccuracyBench) -> None:
    console = out_console()
    table = Sheet("method", "keep", "tokens", "accuracy (95 %)", "of full", "against all tokens (95 %)", "p", "KL")
    for row in (result.full, *result.rows):
        score, gap = row.accuracy, row.difference
        table.add_row(
            row.method,
            f"{row.keep:g}",
            f"{row.tokens:.1f}",
            f"{score.value:.3f} ({score.low:.3f}-{score.high:.3f})",
            f"{row.of_full:.1%}",
            f"{gap.value:+.3f} ({gap.low:+.3f} to {gap.high:+.3f})",
            f"{row.p_value:.2g}",
            f"{row.kl:.4f}",
        )
    console.print(table)
    settings = [f"{row.method} {row.keep:g}" for row in (result.full, *result.rows)]
    types = Sheet("accuracy by type", "blind", *settings)
    for kind, share in result.full.by_type.items():
        cells = [f"{row.by_type[kind]:.2f}" for row in result.rows]
        types.add_row(kind, f"{result.blind_by_type.get(kind, 0):.2f}", f"{share:.2f}", *cells)
    console.print(types)
    data(
        f"macro over types; blind floor {result.blind:.3f}; "
        f"{result.full.n} questions on {result.videos} videos, seed {result.seed}"
    )
