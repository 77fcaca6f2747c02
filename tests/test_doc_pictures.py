# SPDX-License-Identifier: Apache-2.0
"""The pictures of README are made by one command, are small, and are those that the command makes."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

from docs.pictures import BROWSER, make

ROOT = Path(__file__).resolve().parent.parent
CHECKED_IN = ROOT / "docs" / "pictures"


def _words(file: Path) -> str:
    return " ".join("".join(text.itertext()) for text in ET.fromstring(file.read_bytes()).iter() if "text" in text.tag)


def test_the_command_makes_what_is_checked_in(tmp_path):
    make(tmp_path)
    names = {file.name for file in tmp_path.iterdir()} | ({"page.png"} if BROWSER is None else set())
    assert names == {file.name for file in CHECKED_IN.iterdir()}
    assert (tmp_path / "accuracy.svg").read_text() == (CHECKED_IN / "accuracy.svg").read_text()
    assert _words(tmp_path / "patches.svg") == _words(CHECKED_IN / "patches.svg")
    assert "visual" in _words(tmp_path / "report.svg")


def test_pictures_are_small_and_shown():
    files = list(CHECKED_IN.iterdir())
    assert sum(file.stat().st_size for file in files) < 1 << 20
    shown = set[str]()
    for page in (ROOT / "README.md", *ROOT.glob("docs/*.md")):
        shown |= set(re.findall(r"!\[[^\]]+\]\((?:docs/)?pictures/([^)]+)\)", page.read_text(encoding="utf-8")))
    assert shown == {file.name for file in files}
