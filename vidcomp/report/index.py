# SPDX-License-Identifier: Apache-2.0
"""The index of methods, schedules, mergers and families, taken from their classes.

``python -m vidcomp.report.index`` writes it to ``vidcomp/core/index.json``.
"""

from __future__ import annotations

import json
from dataclasses import asdict

from vidcomp.core.index import FAMILIES, FILE
from vidcomp.families import FAMILIES as ADAPTERS
from vidcomp.families.catalog import catalog
from vidcomp.methods import METHODS
from vidcomp.schedules import SCHEDULES
from vidcomp.tower import MERGERS

__all__ = ["taken_from_classes"]


def taken_from_classes() -> str:
    """The text of the index as the classes say it today; loads all of them."""

    groups = {
        registry.group: [row.to_store() for row in registry.rows(built_in=True, fresh=True)]
        for registry in (METHODS, SCHEDULES, MERGERS)
    }
    stock = {kind.model_type: asdict(kind.stock) for kind in ADAPTERS.values()}
    families = [{**asdict(info), "stock": stock[info.model_type]} for info in catalog(ADAPTERS)]
    return json.dumps({**groups, FAMILIES: families}, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(taken_from_classes(), encoding="utf-8")
