# SPDX-License-Identifier: Apache-2.0
"""What stays on a screen, and what stands in a log."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios

import pytest
from command_line import SHORT, command
from rich.console import Console

from vidcomp.cli.console import STATUS, Ui, data
from vidcomp.cli.progress import LOG_SECONDS, Progress
from vidcomp.report.sheet import Sheet

COMMANDS = [
    "",
    "ask",
    "chat",
    "caption",
    "report",
    "probe",
    "frames",
    "methods",
    "calibrate",
    "bench ask",
    "bench accuracy",
]


def in_terminal(columns, *args):
    """Run a command line in a terminal of this width: what it wrote."""
    main, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    plain = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")} | {"TERM": "xterm"}
    work = subprocess.Popen(command(*args), stdin=side, stdout=side, stderr=side, env=plain)
    os.close(side)
    written = b""
    while True:
        try:
            piece = os.read(main, 65536)
        except OSError:  # the other side is closed
            break
        if not piece:
            break
        written += piece
    work.wait()
    os.close(main)
    return written.decode()


def screen(written):
    """The lines that stay: carriage returns and erasures carried out, colours left out."""
    lines, row = [], ""
    for part in re.split(r"(\r\n|\n|\r|\x1b\[2K)", re.sub(r"\x1b\[[0-9;]*m", "", written)):
        if part in ("\n", "\r\n"):
            lines.append(row)
            row = ""
        elif part == "\x1b[2K":
            row = ""
        elif part != "\r":
            row = part if not row else part + row[len(part) :]
    return [*lines, row]


@pytest.mark.parametrize("columns", [60, 100])
def test_no_half_drawn_line_stays_in_a_terminal(clip, tmp_path, columns):
    (tmp_path / "videos").mkdir()
    for name in ("a", "c" * 80, "e"):
        (tmp_path / "videos" / f"{name}.mp4").write_bytes(clip.read_bytes())
    for name in "bd":
        (tmp_path / "videos" / f"{name}.mp4").write_text("no video")
    written = in_terminal(columns, "caption", tmp_path / "videos", *SHORT)
    lines = screen(written)
    assert "captioned 4 of 5, 2 failed" in written
    assert not any("captioned" in line for line in lines)
    assert sum(line.startswith("failed  ") for line in lines) == 2
    drawn = re.findall(r"captioned [^\r\n\x1b]*", written)
    assert max(map(len, drawn)) < columns


def test_what_is_written_beside_a_status_line_is_whole(capfd, monkeypatch):
    STATUS.show("captioned 1 of 2")
    data("the caption")
    Ui().note("a note")
    Ui(quiet=True).note("nothing")
    Ui(quiet=True).failure("failed  b.mp4")
    STATUS.show("")
    out, err = capfd.readouterr()
    assert out == "the caption\n"
    assert screen(err) == ["a note", "failed  b.mp4", ""]


def told(capfd, total, steps, **facts):
    """Lines of a log after so many steps of so many seconds."""
    now = [0.0]
    with Progress("captioned", total, Ui(), clock=lambda: now[0]) as progress:
        for seconds in steps:
            now[0] += seconds
            progress.advance(**facts)
    return capfd.readouterr().err.splitlines()


def test_a_log_gets_a_line_now_and_then(capfd):
    assert told(capfd, 60, [1.0] * 5) == []
    assert told(capfd, 60, [1.0] * 25) == ["captioned 10 of 60, 0:50 left", "captioned 20 of 60, 0:40 left"]
    assert told(capfd, 3, [LOG_SECONDS]) == ["captioned 1 of 3, 1:00 left"]
    assert len(told(capfd, 5000, [0.01] * 4999)) <= 20
    assert told(capfd, 20, [1.0] * 10, failed=True) == ["captioned 10 of 20, 10 failed, 0:10 left"]
    assert told(capfd, 20, [1.0] * 10, skipped=True) == ["captioned 10 of 20"]
    with Progress("captioned", 40, Ui(quiet=True)) as progress:
        for _ in range(40):
            progress.advance()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("width", range(24, 130, 7))
def test_a_table_shows_every_figure_at_any_width(width):
    rows = [("llm layer 18", "18432 tokens", "1843 tokens", "90.0%", "1.125 GiB"), ("read", "", "8 frames", "", "")]
    sheet = Sheet("stage", "in", "out", "removed", "KV cache")
    for row in rows:
        sheet.add_row(*row)
    console = Console(width=width)
    with console.capture() as shown:
        console.print(sheet)
    text = shown.get()
    assert all(cell in text for row in rows for cell in row) and "…" not in text
    assert max(map(len, text.splitlines())) <= width


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("width", [45, 60, 80, 100])
def test_help_cuts_nothing(cli, monkeypatch, name, width):
    monkeypatch.setenv("COLUMNS", str(width))
    assert "…" not in cli(*name.split(), "--help")[1]


@pytest.mark.parametrize("args", [["report", "CLIP", *SHORT], ["probe", "CLIP"], ["methods"]])
def test_sixty_columns_cut_no_figure(clip, args):
    written = in_terminal(60, *(clip if arg == "CLIP" else arg for arg in args))
    assert "…" not in written
    assert "error" not in written


def test_help_is_a_command_too(cli):
    assert cli("help", "caption")[1] == cli("caption", "--help")[1]
    assert "caption" in cli("help")[1]
    assert cli("-V")[1] == cli("--version")[1]
