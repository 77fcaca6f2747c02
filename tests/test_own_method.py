# SPDX-License-Identifier: Apache-2.0
"""The worked example of docs/own-method.md, taken from the page, installed into a folder, and used by name."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parent.parent / "docs" / "own-method.md"
SCRIPT = """
import sys, torch, vidcomp
from vidcomp.bench.compress import made_up_view
from vidcomp.cli.app import run

method = vidcomp.get_method("outliers", attention=0.3)
view = made_up_view((4, 9, 16))
reduction = method(view, 0.25)
assert reduction.kept == 9, reduction
tokens = vidcomp.apply_reduction(view, reduction)
first = tokens.positions[0]
torch.testing.assert_close(tokens.features[0], view.features[0, : first + 1].mean(0))
row = next(row for row in vidcomp.list_methods() if row.name == "outliers")
assert row.exact and row.needs == {"salience"} and row.parameters == {"attention": 0.0}
try:
    vidcomp.get_method("outliers", atention=1)
except vidcomp.VidcompError as error:
    assert "did you mean 'attention'?" in error.hint
sys.exit(run(["ask", sys.argv[1], "what happens?", "--method", "outliers:attention=0.3", "--keep", "0.25", "--quiet"]))
"""


def blocks() -> dict[str, str]:
    """File name to the code block that follows it on the page."""
    return dict(re.findall(r"`([\w.]+)`:\n\n```\w+\n(.*?)```", PAGE.read_text(), flags=re.S))


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as pip leaves it: the module, and metadata that names its entry point."""
    folder, files = tmp_path_factory.mktemp("site"), blocks()
    (folder / "outliers.py").write_text(files["outliers.py"])
    metadata = folder / "outliers-0.1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: outliers\nVersion: 0.1\n")
    group, entries = re.findall(r'\[project\.entry-points\."([\w.]+)"\]\n(.*)', files["pyproject.toml"])[0]
    (metadata / "entry_points.txt").write_text(f"[{group}]\n" + entries.replace('"', "") + "\n")
    return folder


def test_the_example_works_as_the_page_says(installed: Path, samples: Path) -> None:
    path = os.pathsep.join([str(installed), str(PAGE.parent.parent), os.environ.get("PYTHONPATH", "")])
    clip = samples / "blue_cross_moves_right.mp4"
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(clip)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_example_is_short() -> None:
    assert len(PAGE.read_text().splitlines()) < 70
