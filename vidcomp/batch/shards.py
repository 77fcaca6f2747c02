# SPDX-License-Identifier: Apache-2.0
"""Dividing a batch among machines that know nothing of each other: by the names of the videos."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vidcomp.batch.jobs import names_below
from vidcomp.errors import UsageError

__all__ = ["Shard"]


@dataclass(frozen=True)
class Shard:
    """One of several parts of a batch, about equally large.

    Attributes:
        number: of the part, from 1 on.
        count: parts.
    """

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str | None) -> Shard:
        """Read ``3/16``; None is the whole batch.

        Raises:
            UsageError: it is no such part.
        """
        if text is None:
            return cls()
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text.strip(), re.ASCII)
        number, count = map(int, found.groups()) if found else (0, 0)
        if not 1 <= number <= count:
            raise UsageError(f"--shard {text}", why="it must be a part and their number, such as 1/16 to 16/16",
                             code="bad_option")  # fmt: skip
        return cls(number, count)

    def of(self, videos: Sequence[Path], arguments: Iterable[Path]) -> dict[Path, str]:
        """The videos of this part, and their names relative to the arguments below which they were found."""
        names = zip(videos, names_below(videos, arguments), strict=True)
        return {path: name for path, name in names if self.holds(name)}

    def holds(self, name: str) -> bool:
        """True if a video of this name, relative to its argument, is in this part."""
        digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        return int.from_bytes(digest) % self.count == self.number - 1
