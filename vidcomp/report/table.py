# SPDX-License-Identifier: Apache-2.0
"""A report as tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from rich.console import Group, RenderableType
from rich.text import Text

from vidcomp.core.ledger import SpanRecord, StageLedger
from vidcomp.report.lines import Report, ReportLine
from vidcomp.report.sheet import Sheet

__all__ = ["render_report"]

_SCALES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def render_report(report: Report, ledger: StageLedger) -> RenderableType:
    """Stages, spans and a summary, top to bottom."""
    return Group(
        _stage_table(report), _span_table(ledger.spans), Text(ledger.segmentation.words), _summary(report, ledger)
    )


def quantity(value: float) -> str:
    """A large number in three digits: 1234567 gives 1.23 M."""
    for scale, letter in _SCALES:
        if value >= scale:
            return f"{value / scale:.3g} {letter}"
    return f"{value:.0f}"


def size(count: int) -> str:
    """Bytes in binary units."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            return f"{value:.4g} {unit}"
        value /= 1024
    raise AssertionError("unreachable")


def _stage_table(report: Report) -> Sheet:
    table = Sheet("stage", "in", "out", "removed", "seconds", "KV cache", "LLM FLOPs")
    for line in report.lines:
        table.add_row(*_stage_cells(line))
    return table


def _stage_cells(line: ReportLine) -> tuple[str, ...]:
    stage = line.stage
    changes = stage.name not in ("prefill", "generate")
    return (
        stage.name,
        f"{stage.into} {stage.unit}" if stage.into else "",
        f"{stage.out} {stage.unit}",
        f"{stage.removed:.1%}" if changes and stage.removed else "",
        "reused" if stage.reused else f"{stage.seconds:.3f}",
        size(line.cost.kv_bytes) if line.cost else "",
        quantity(line.cost.flops) if line.cost else "",
    )


def _span_table(spans: list[SpanRecord]) -> Sheet:
    table = Sheet("span", "frames", "seconds", "static positions", "tokens", "kept")
    for number, span in enumerate(spans, 1):
        table.add_row(
            str(number),
            f"{span.start}-{span.end}",
            f"{span.start_seconds:.2f}-{span.end_seconds:.2f}",
            str(span.static),
            str(span.tokens),
            f"{span.kept} ({span.kept / span.tokens:.1%})",
        )
    return table


def _summary(report: Report, ledger: StageLedger) -> Text:
    tokens = ledger.tokens
    tower = (
        f"vision tower: {ledger.tower_share:.1%} of its rows computed, per layer {_runs(report.tower_rows)} of "
        f"{report.tower_rows[-1]}\n"
        if report.tower_rows
        else ""
    )
    inside = f", {tokens.after_llm_layer} from layer {tokens.layer} on" if tokens.layer is not None else ""
    markers = f" + {tokens.markers} marker" if tokens.markers else ""
    cached = f", {tokens.cached} of them read before" if ledger.continues else ""
    left = f" ({tokens.markers_dropped} marker rows left with their frames)" if tokens.markers_dropped else ""
    return Text(
        f"{tower}visual tokens: {tokens.uncompressed} -> {tokens.kept} "
        f"({ledger.keep_actual:.1%}, asked {ledger.keep_requested:.1%}){inside}\n"
        f"prefill: {tokens.sequence} rows = {tokens.kept} visual + {tokens.separators} separator + {tokens.text} text"
        f"{markers}{cached}{left}\n"
        f"LLM FLOPs: {quantity(report.plain.flops)} -> {quantity(report.actual.flops)} "
        f"({report.actual.flops / report.plain.flops:.1%}), "
        f"KV cache: {size(report.plain.kv_bytes)} -> {size(report.actual.kv_bytes)}\n"
        f"time to first token {ledger.time_to_first_token:.2f} s, total {ledger.seconds:.2f} s"
    )


def _runs(numbers: Sequence[int]) -> str:
    """Numbers in words, equal neighbours counted: ``25 x 1458, 5832``."""
    runs = [(number, len(list(run))) for number, run in groupby(numbers)]
    return ", ".join(f"{count} x {number}" if count > 1 else f"{number}" for number, count in runs)
