# SPDX-License-Identifier: Apache-2.0
"""ToMe after the tower: merge the most similar pairs of each frame's tokens, pass after pass.

Paper: "Token Merging: Your ViT But Faster".
Needs: keys of the last used tower layer, mean over heads.

In plain words, per frame: tokens at even places choose the most similar token at an odd place (cosine of keys); the
best pairs merge, at most half of the tokens in a pass; passes repeat until the frame's budget is reached. A survivor
is the mean of all its members and stands at the first of them.

Our reading: the source merges inside every layer of the tower (``--encoder tome`` does that); once after it is the
form in which others compare with it. Keys of merged tokens are means of their members' keys. The budget is spread
evenly over the frames, and a frame that gets none of it is dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vidcomp.core.source import Source
from vidcomp.core.tokens import Reduction, TokenView
from vidcomp.methods.base import Method, check_keep, signal
from vidcomp.methods.blocks.folding import fold
from vidcomp.methods.blocks.merge import mean_of_members
from vidcomp.methods.blocks.select import even_budgets

__all__ = ["Tome"]


@dataclass(frozen=True)
class Tome(Method):
    """No parameters."""

    name: ClassVar[str] = "tome"
    summary: ClassVar[str] = "merges the most similar pairs of each frame's tokens, by the tower's keys"
    source: ClassVar[Source] = Source(
        "ToMe", "ICLR 2023", "2210.09461", "https://github.com/facebookresearch/ToMe", licence="CC-BY-NC"
    )
    needs: ClassVar[frozenset[str]] = frozenset({"keys"})
    exact: ClassVar[bool] = True

    def __call__(self, view: TokenView, keep: float) -> Reduction:
        """Exactly ``ceil(keep * T * N)`` tokens survive."""
        check_keep(keep)
        return mean_of_members(fold(signal(view, "keys", self.name), even_budgets(view, keep)).first_members())
