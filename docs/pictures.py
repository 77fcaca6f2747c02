# SPDX-License-Identifier: Apache-2.0
"""Makes the pictures of README from a sample and the embedded model, into docs/pictures.

python -m docs.pictures [FOLDER]
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from rich.console import Console

import vidcomp
from vidcomp.bench.plot import plot_accuracy
from vidcomp.engine.trace import traced
from vidcomp.report import make_report, render_report
from vidcomp.report.page import write_page, write_picture
from vidcomp.report.timeline import Timeline

ROOT = Path(__file__).parent
CLIP, QUESTION, KEEP = "yellow_square_turns_green_then_blue_cross_moves_left.mp4", "what happens at the end?", 0.1


BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def _photograph(page: Path, picture: Path) -> None:
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1100,1240")
    profile = f"--user-data-dir={page.parent / 'profile'}"
    command = [str(BROWSER), *flags, profile, f"--screenshot={picture}", page.as_uri()]
    subprocess.run(command, check=True, capture_output=True)
    with Image.open(picture) as taken:
        small = taken.convert("RGB").quantize(128)
    small.save(picture, optimize=True)


def make(folder: Path) -> None:
    """Write ``patches.svg`` (what was kept), ``report.svg`` (a session in a terminal), ``page.png`` (the page in a
    browser, where there is one) and ``accuracy.svg`` (from docs/accuracy.json, whose command is in
    README)."""
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.chdir(ROOT.parent), vidcomp.load("nano", device="cpu", keep=KEEP) as lm:
        video = Path("samples") / CLIP  # the page names the file as it is given
        answer, trace = traced(lm, video, QUESTION)
        write_picture(answer, trace, folder / "patches.svg")
        answer, trace = traced(lm, video, QUESTION, segmenter="dinov2", skip_repeats="off")
        report = make_report(answer.ledger, lm.family.shape)
    plot_accuracy(json.loads((ROOT / "accuracy.json").read_text(encoding="utf-8")), folder / "accuracy.svg")
    if BROWSER is None:
        print("page.png is left out: no chromium is installed", file=sys.stderr)
    else:
        with tempfile.TemporaryDirectory() as profile:
            write_page(answer, trace, report, Path(profile) / "page.html")
            _photograph(Path(profile) / "page.html", folder / "page.png")
    console = Console(file=io.StringIO(), record=True, width=96, force_terminal=True, highlight=False)
    console.print(f'$ vidcomp report {CLIP[:13]}... "{QUESTION}" --keep {KEEP} --segmenter dinov2', markup=False)
    console.print(f"{QUESTION}  ->  {answer.text}", markup=False)
    console.print(render_report(report, answer.ledger))
    console.print(Timeline(trace))
    console.save_svg(str(folder / "report.svg"), title="vidcomp", unique_id="vidcomp")


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "pictures")
