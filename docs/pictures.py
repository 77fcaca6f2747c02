# SPDX-License-Identifier: Apache-2.0
"""Makes the pictures of README from a sample and the embedded model, into docs/pictures.

python -m docs.pictures [FOLDER]
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from rich.console import Console

import vidcomp
from vidcomp.engine.trace import traced
from vidcomp.report import make_report, render_report
from vidcomp.report.page import write_picture
from vidcomp.report.timeline import Timeline

ROOT = Path(__file__).parent
CLIP, QUESTION, KEEP = "yellow_square_turns_green_then_blue_cross_moves_left.mp4", "what happens at the end?", 0.1


def make(folder: Path) -> None:
    """Write ``patches.svg`` (what was kept) and ``report.svg`` (a session in a terminal)."""
    folder.mkdir(parents=True, exist_ok=True)
    with vidcomp.load("nano", device="cpu", keep=KEEP) as lm:
        answer, trace = traced(lm, ROOT.parent / "samples" / CLIP, QUESTION)
        report = make_report(answer.ledger, lm.family.shape)
    write_picture(answer, trace, folder / "patches.svg")
    console = Console(file=io.StringIO(), record=True, width=96, force_terminal=True, highlight=False)
    console.print(f'$ vidcomp report {CLIP[:24]}... "{QUESTION}" --keep {KEEP}', markup=False)
    console.print(f"{QUESTION}  ->  {answer.text}", markup=False)
    console.print(render_report(report, answer.ledger))
    console.print(Timeline(trace))
    console.save_svg(str(folder / "report.svg"), title="vidcomp", unique_id="vidcomp")


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "pictures")
