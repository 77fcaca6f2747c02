# SPDX-License-Identifier: Apache-2.0
"""Command lines of the tests, and what they leave."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
QUESTION = "what happens at the end?"
SHORT = ["--max-new-tokens", "3"]


def command(*args: object) -> list[str]:
    """The arguments of a process that runs this command line."""
    return [sys.executable, "-m", "vidcomp", *map(str, args)]


def records(path: Path) -> list[dict[str, Any]]:
    """The records of a results file, without the lines that tell the settings of a run."""
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return [record for record in found if "run" not in record]
