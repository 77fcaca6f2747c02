# SPDX-License-Identifier: Apache-2.0
"""Mergers that work inside the vision tower: fewer rows, or fewer frames, for its later layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vidcomp.core.registry import MethodInfo, Registry

if TYPE_CHECKING:
    from vidcomp.tower.host import TowerMerger

__all__ = ["MERGERS", "get_merger", "list_mergers"]

MERGERS: Registry[TowerMerger] = Registry(
    "encoder merger",
    group="vidcomp.mergers",
    also=("none",),
    built_in={
        "tome": "vidcomp.tower.tome:TomeTower",
        "turbo": "vidcomp.tower.turbo:TurboTower",
        "earlytom": "vidcomp.tower.earlytom:EarlyTom",
    },
)


def get_merger(name: str, **parameters: Any) -> TowerMerger:
    """The merger of that name, ``get_merger("tome", r=16)`` for example.

    Raises:
        UsageError: unknown name or parameter, a value outside its range, or a package that cannot be imported.
    """
    return MERGERS.get(name, **parameters)


def list_mergers(built_in: bool = False, fresh: bool = False) -> tuple[MethodInfo, ...]:
    """Every merger that can be loaded, as :func:`vidcomp.methods.methods` lists the outer methods."""
    return MERGERS.rows(built_in, fresh)
