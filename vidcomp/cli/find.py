# SPDX-License-Identifier: Apache-2.0
"""vidcomp find: when a question is answered by yes."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vidcomp.cli.console import Ui, data, out_console
from vidcomp.cli.notes import counted, model_notes
from vidcomp.cli.options import ALL_GROUPS, path_argument, with_config, with_ui
from vidcomp.config import RunConfig

if TYPE_CHECKING:
    from vidcomp.engine.film import Segment

__all__ = ["find"]

FAINT = 0.5  # share of yes and no among all tokens, below which the question is of another kind


@with_ui
@with_config(*ALL_GROUPS)
def find(
    video: Annotated[Path, path_argument("video file")],
    question: Annotated[str, typer.Argument(help="a question that is answered by yes or no", show_default=False)],
    every: Annotated[
        str, typer.Option("--every", help="windows: scene (at cuts), auto (at cuts, 2 to 30 s), or 30s")
    ] = "auto",
    least: Annotated[str | None, typer.Option("--min", help="join windows that are shorter: 2s")] = None,
    most: Annotated[str | None, typer.Option("--max", help="divide windows that are longer: 30s")] = None,
    above: Annotated[
        float, typer.Option("--above", help="list windows whose yes is more probable than this", min=0, max=1)
    ] = 0.5,
    *,
    config: RunConfig,
    ui: Ui,
) -> None:
    """List the windows of a film for which a question is answered by yes, the most probable first."""
    from vidcomp.cli.progress import Progress
    from vidcomp.cli.session import check_file, check_names, open_model
    from vidcomp.video.windows import Every

    Every.parse(every, least, most)
    check_names(config, question)
    check_file(video)
    with open_model(config, ui, video, question) as lm:
        from vidcomp.engine.film import find as windows

        entries: list[dict[str, Any]] = []
        common: dict[str, Any] = {}
        notes = dict.fromkeys(model_notes(config.model.model)) if ui.json else dict[str, None]()
        with Progress("looked at", None, ui) as progress:
            for segment in windows(lm, video, question, every=every, least=least, most=most):
                entries.append(_entry(segment))  # without its frames
                if segment.answer:
                    notes |= dict.fromkeys(segment.answer.frames.info.notes)
                    common = common or _common(segment.answer.to_dict())
                progress.advance("windows")
                failed = segment.error
    if not common and failed is not None:
        raise failed
    _show({**common, **_sorted(entries, above), "question": question, "notes": list(notes)}, ui)


def _entry(segment: Segment) -> dict[str, Any]:
    """One window as in the JSON record."""
    entry: dict[str, Any] = segment.window.to_dict()
    if segment.verdict and segment.answer:
        verdict = segment.verdict
        return {**entry, "status": segment.answer.status, "answer": segment.text,
                "probability": round(verdict.probability, 6), "share": round(verdict.share, 6),
                "tokens": segment.answer.ledger.tokens.to_dict()}  # fmt: skip
    return {**entry, "status": "failed", "error": segment.error.to_dict() if segment.error else None}


def _common(record: dict[str, Any]) -> dict[str, Any]:
    """Of an answer's record, what is the same for all windows."""
    names = ("schema", "video", "model", "method", "inner", "encoder", "versions", "seed")
    return {name: record[name] for name in names}


def _sorted(entries: list[dict[str, Any]], above: float) -> dict[str, Any]:
    """Windows with a yes, the most probable first, and the others in their order."""
    found = [entry for entry in entries if entry.get("probability", 0) > above]
    others = [entry for entry in entries if entry not in found]
    found.sort(key=lambda entry: (-entry["probability"], entry["start"]))
    whole = all(entry["status"] == "ok" for entry in entries)
    return {"status": "ok" if whole else "degraded", "windows": len(entries), "found": found, "others": others}


def _show(record: dict[str, Any], ui: Ui) -> None:
    entries = [*record["found"], *record["others"]]
    if all(entry["share"] < FAINT for entry in entries if entry["status"] != "failed"):
        record["notes"].append("the model would rather say neither yes nor no: ask a question with such an answer")
    if ui.json:
        data(record)
        return
    from vidcomp.report.sheet import Sheet
    from vidcomp.report.subtitles import clock

    table = Sheet("from", "to", "yes")
    for entry in record["found"]:
        times = (clock(Fraction(entry[f"exact_{name}"])) for name in ("start", "end"))
        table.add_row(*times, f"{entry['probability']:.1%}")
    if record["found"]:
        out_console().print(table)
    for note in record["notes"]:
        ui.note(f"note: {note}")
    failed = [entry for entry in entries if entry["status"] == "failed"]
    for entry in failed:
        error = entry["error"]
        ui.failure(f"failed  {entry['start']:.3f} s  ({': '.join(filter(None, (error['what'], error['why'])))})")
    lost = f", {len(failed)} failed" if failed else ""
    ui.note(f"yes in {len(record['found'])} of {counted(record['windows'], 'window')}{lost}")
