# SPDX-License-Identifier: Apache-2.0
"""Files of counts and orders that a calibration found: JSON with the schedule's name and its parameters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["read_preset", "write_preset"]


def read_preset(file: str, schedule: str, key: str) -> Any:
    """One entry of a preset file.

    Raises:
        ValueError: the file cannot be read, was made for another schedule, or lacks the entry.
    """
    try:
        preset = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read the preset {file}: {error}") from error
    made_for = preset.get("schedule") if isinstance(preset, dict) else None
    if made_for != schedule or key not in preset:
        raise ValueError(f'{file} is no preset of {schedule}: it needs "schedule": "{schedule}" and "{key}"')
    return preset[key]


def write_preset(file: Path, schedule: str, **entries: Any) -> None:
    """Write a preset, replacing the file at once."""
    text = json.dumps({"schedule": schedule, **entries}, indent=2) + "\n"
    fresh = file.with_name(file.name + ".new")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(file)
