# SPDX-License-Identifier: Apache-2.0
"""Rules of the house that a reader of the source relies on."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "vidcomp"
FILES = sorted(PACKAGE.rglob("*.py"))
QUESTIONS = ("What ", "Which ", "How ", "Whether ", "Where ", "Who ", "When ")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_docstrings_name_the_thing_or_the_act(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    described = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Module)
    texts = [ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, described)]
    assert [text for text in texts if text.startswith(QUESTIONS)] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_fits_in_the_head(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400
