# SPDX-License-Identifier: Apache-2.0
"""The facts that lists show of methods and families, stored beside the code, so that a list loads none of it.

``python -m vidcomp.report.index`` writes ``index.json`` from the classes; a test compares the two.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["FAMILIES", "FILE", "stored"]

FILE = Path(__file__).with_name("index.json")
FAMILIES = "families"


def stored(what: str) -> list[dict[str, Any]]:
    """Rows of a group: ``vidcomp.methods``, ``vidcomp.schedules``, ``vidcomp.mergers`` or :data:`FAMILIES`."""
    return list(_content().get(what, ()))


@cache
def _content() -> dict[str, list[dict[str, Any]]]:
    return dict(json.loads(FILE.read_text(encoding="utf-8"))) if FILE.is_file() else {}
