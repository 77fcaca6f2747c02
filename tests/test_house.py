# SPDX-License-Identifier: Apache-2.0
"""Rules of the house that a reader of the source relies on."""

from __future__ import annotations

import ast
import re
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


def fields(kind: ast.ClassDef) -> list[ast.AnnAssign]:
    annotated = [item for item in kind.body if isinstance(item, ast.AnnAssign) and "ClassVar" not in ast.unparse(item)]
    return [item for item in annotated if isinstance(item.target, ast.Name) and not item.target.id.startswith("_")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_public_field_is_documented(path: Path) -> None:
    """In the docstring of its dataclass, or by the help of its command-line option."""
    missing = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        decorated = isinstance(node, ast.ClassDef) and any("dataclass" in ast.unparse(d) for d in node.decorator_list)
        if not decorated or node.name.startswith("_"):
            continue
        words = set(re.findall(r"\w+", ast.get_docstring(node) or ""))
        for item in fields(node):
            has_help = item.value is not None and ast.unparse(item.value).startswith("option(")
            if item.target.id not in words and not has_help:
                missing.append(f"{node.name}.{item.target.id}")
    assert missing == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_fits_in_the_head(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400
