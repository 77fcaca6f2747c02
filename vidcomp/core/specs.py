# SPDX-License-Identifier: Apache-2.0
"""Names with parameters as they are typed: ``name:key=value,key=value``."""

from __future__ import annotations

from typing import Any

from vidcomp.errors import UsageError

__all__ = ["parse_spec"]


def parse_spec(text: str) -> tuple[str, dict[str, Any]]:
    """Split ``name:key=value,key=value`` into the name and its parameters.

    Values become int, float, bool or None where they read as one.

    Raises:
        UsageError: a parameter without ``=``.
    """
    name, _, rest = text.partition(":")
    parameters: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise UsageError(f"cannot read {part!r} in {text!r}", why="parameters are written name:key=value,key=value",
                             code="bad_option")  # fmt: skip
        parameters[key.strip()] = _literal(value.strip())
    return name.strip(), parameters


def _literal(text: str) -> int | float | bool | str | None:
    named: dict[str, bool | None] = {"true": True, "false": False, "none": None}
    if text.lower() in named:
        return named[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
