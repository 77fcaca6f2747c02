# SPDX-License-Identifier: Apache-2.0
"""Origin of a method: the paper and the published code."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["Source"]


@dataclass(frozen=True)
class Source:
    """A paper and its code.

    Attributes:
        name: short name of the method.
        venue: where it appeared, with the year; empty for a preprint.
        arxiv: id of the preprint.
        code: address of the published code; empty where there is none.
        licence: of that code, where it does not allow to copy from it.
        note: what else there is to say, in a few words.
    """

    name: str
    venue: str = ""
    arxiv: str = ""
    code: str = ""
    licence: str = ""
    note: str = ""

    @classmethod
    def of(cls, source: Source | str) -> Source:
        """The source itself; plain text is a name, and an address in it that of the code."""
        if isinstance(source, Source):
            return source
        found = re.search(r"https://[^\s,;)]+", source)
        return cls(source, code=found.group() if found else "")

    def __str__(self) -> str:
        code = "" if self.code in self.name else self.code
        code += f" ({self.licence})" if self.licence else ""
        parts = (self.name, self.venue, self.arxiv and f"arXiv {self.arxiv}", code, self.note)
        return ", ".join(part for part in parts if part)
