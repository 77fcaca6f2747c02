# SPDX-License-Identifier: Apache-2.0
"""The tags of a Flash video: a chain of lengths that has to fit, each told before and after its tag.

Adobe Flash Video File Format Specification 10.1, annex E.
"""

from __future__ import annotations

import os

__all__ = ["broken_chain"]

TAG = 11  # bytes of a tag before its data
KINDS = frozenset({8, 9, 15, 18})  # sound, pictures, and two forms of remarks


def broken_chain(path: str) -> str:
    """What is wrong with the chain, in words; empty when nothing is. Reads the heads of all tags.

    Muxers that tell wrong lengths after all their tags are left in peace.
    """
    with open(path, "rb") as file:
        fd, size = file.fileno(), os.fstat(file.fileno()).st_size
        at = int.from_bytes(os.pread(fd, 4, 5), "big") + 4
        fits = misfits = 0
        while at < size:
            head = os.pread(fd, TAG, at)
            end = at + TAG + int.from_bytes(head[1:4], "big")
            after = os.pread(fd, 4, end)
            if len(after) < 4:
                return "it ends within a tag"
            if head[0] & 0x1F not in KINDS or any(head[8:11]):
                return f"there is no tag at byte {at}"
            told = int.from_bytes(after, "big") == end - at
            fits, misfits = fits + told, misfits + (not told)
            at = end + 4
    return f"{misfits} of {fits + misfits} tags have another length than is told" if fits and misfits else ""
