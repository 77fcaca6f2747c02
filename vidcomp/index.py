"""What lists show of methods and families, stored beside the code, so that a list loads none of it.

``python -m vidcomp.index`` writes ``index.json`` from the classes; a test compares the two.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["FAMILIES", "FILE", "stored", "taken_from_classes"]

FILE = Path(__file__).with_name("index.json")
FAMILIES = "families"


def stored(what: str) -> list[dict[str, Any]]:
    """Rows of a group: ``vidcomp.methods``, ``vidcomp.schedules``, ``vidcomp.mergers`` or :data:`FAMILIES`."""
    return list(_content().get(what, ()))


@cache
def _content() -> dict[str, list[dict[str, Any]]]:
    return dict(json.loads(FILE.read_text(encoding="utf-8"))) if FILE.is_file() else {}


def taken_from_classes() -> str:
    """The text of the index as the classes say it today; loads all of them."""
    from dataclasses import asdict

    from vidcomp.inllm import SCHEDULES
    from vidcomp.intower import MERGERS
    from vidcomp.methods import METHODS
    from vidcomp.models import FAMILIES as adapters
    from vidcomp.models.catalog import catalog

    groups = {
        registry.group: [row.to_store() for row in registry.rows(built_in=True, fresh=True)]
        for registry in (METHODS, SCHEDULES, MERGERS)
    }
    stock = {kind.model_type: asdict(kind.stock) for kind in adapters.values()}
    families = [{**asdict(info), "stock": stock[info.model_type]} for info in catalog(adapters)]
    return json.dumps({**groups, FAMILIES: families}, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(taken_from_classes(), encoding="utf-8")
