# SPDX-License-Identifier: Apache-2.0
"""From a ledger to the lines of a report: what each stage removed, cost and left behind."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from vidcomp.core.architectures import ModelShape
from vidcomp.core.ledger import StageLedger, StageRecord
from vidcomp.report.accounting import Cost, prefill_cost

__all__ = ["Report", "ReportLine", "make_report"]


@dataclass(frozen=True)
class ReportLine:
    """One stage; ``cost`` is the prefill's cost if nothing more were removed after this stage, None where no token
    changes."""

    stage: StageRecord
    cost: Cost | None

    def to_dict(self) -> dict[str, Any]:
        """As in ``report --json``."""
        cost = {"flops": self.cost.flops, "kv_bytes": self.cost.kv_bytes} if self.cost else {}
        return {**self.stage.to_dict(), "removed": round(self.stage.removed, 6), **cost}


@dataclass(frozen=True)
class Report:
    """All lines, and the two ends: the plain model's prefill and the one that ran.

    Attributes:
        lines: one per stage.
        plain, actual: cost of the two prefills.
        tower_rows: rows that each layer of the vision tower read, empty when none were merged or shared there.
        layer_rows: rows that each layer of the language model read or, of an earlier question, held.
    """

    lines: tuple[ReportLine, ...]
    plain: Cost
    actual: Cost
    tower_rows: tuple[int, ...] = ()
    layer_rows: tuple[int, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As in ``report --json``."""
        return {
            "stages": [line.to_dict() for line in self.lines],
            "prefill": {
                "convention": "multiply-adds: 2nC^2(1+g/h) + 2n^2C + 3nCm per layer, text rows included",
                "plain": {"flops": self.plain.flops, "kv_bytes": self.plain.kv_bytes},
                "actual": {"flops": self.actual.flops, "kv_bytes": self.actual.kv_bytes},
            },
            "tower_rows": list(self.tower_rows),
            "layer_rows": list(self.layer_rows),
        }


def make_report(ledger: StageLedger, shape: ModelShape) -> Report:
    """Cost out a finished ledger."""
    tokens = ledger.tokens
    around = tokens.text + tokens.separators + tokens.markers
    plain = prefill_cost(shape, [tokens.uncompressed + around + tokens.markers_dropped] * shape.layers)
    actual = _actual(ledger, shape)
    held = ledger.layer_cached or [0] * len(ledger.layer_rows)
    rows = tuple(a + b for a, b in zip(ledger.layer_rows, held, strict=True))
    return Report(tuple(_lines(ledger, shape, around, actual)), plain, actual, tuple(ledger.tower_rows), rows)


def _actual(ledger: StageLedger, shape: ModelShape) -> Cost:
    """The work of this answer, and the keys that were there when it was written."""
    question = prefill_cost(shape, ledger.layer_rows, ledger.layer_updated, ledger.layer_cached)
    video = prefill_cost(shape, ledger.video_rows, ledger.video_updated)
    return Cost(question.flops + video.flops, question.kv_bytes)


def _lines(ledger: StageLedger, shape: ModelShape, around: int, actual: Cost) -> Iterator[ReportLine]:
    for stage in ledger.stages:
        cost = None
        if stage.name in ("encode", "compress"):
            cost = prefill_cost(shape, [stage.out + around] * shape.layers)
        elif stage.name.startswith("llm layer"):
            cost = actual
        yield ReportLine(stage, cost)
