# SPDX-License-Identifier: Apache-2.0
"""Identity of a checkpoint, whatever it is called and wherever it lies."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from vidcomp.hub.folders import checkpoint_files

__all__ = ["fingerprint"]

WHOLE_BYTES = 16_000_000  # up to which a file is read whole
SAMPLES, SAMPLE_BYTES = 16, 4096  # of a larger one; other weights of the same sizes differ everywhere


def fingerprint(folder: Path) -> str:
    """Digest of the files of a checkpoint that a model is loaded from: settings whole, large weights by samples."""
    digest = hashlib.blake2b(digest_size=16)
    for file in checkpoint_files(folder):
        size = file.stat().st_size
        digest.update(f"{file.name} {size}\n".encode())
        for piece in _pieces(file, size):
            digest.update(piece)
    return digest.hexdigest()


def _pieces(file: Path, size: int) -> Iterator[bytes]:
    with open(file, "rb") as content:
        if size <= WHOLE_BYTES:
            yield content.read()
            return
        for number in range(SAMPLES):
            content.seek(max(0, number * (size - SAMPLE_BYTES) // (SAMPLES - 1)))
            yield content.read(SAMPLE_BYTES)
