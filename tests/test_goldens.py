# SPDX-License-Identifier: Apache-2.0
"""The goldens that the repository holds: every method that claims them has some, and they are those of the full set."""

from __future__ import annotations

import filecmp
import json
from pathlib import Path

import pytest
from data.select_goldens import main
from goldens import FULL, SELECTED

from vidcomp.methods import list_methods
from vidcomp.schedules import list_schedules

WITH = {"fastervlm": "vispruner"}  # the published code has both in one


def test_every_claim_of_equality_has_cases_here() -> None:
    held = {case["method"] for case in json.loads((SELECTED / "index.json").read_text())["cases"]}
    claims = {row.name for row in (*list_methods(), *list_schedules()) if row.parity == "goldens"}
    assert claims and {WITH.get(name, name) for name in claims} <= held


@pytest.mark.skipif(not FULL.is_dir(), reason="no ../shared/goldens beside this repository")
def test_they_are_a_selection_of_the_full_set(tmp_path: Path) -> None:
    main(FULL, tmp_path)
    names = sorted(path.name for path in SELECTED.iterdir())
    assert filecmp.cmpfiles(tmp_path, SELECTED, names, shallow=False) == (names, [], [])
