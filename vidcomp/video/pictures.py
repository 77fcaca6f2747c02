# SPDX-License-Identifier: Apache-2.0
"""Frames as picture files: all of them, or none."""

from __future__ import annotations

import os
import secrets
import shutil
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vidcomp.errors import InputError
from vidcomp.video.files import display_name

__all__ = ["write_pictures"]


def write_pictures(pixels: NDArray[np.uint8], names: Sequence[str], folder: Path) -> None:
    """Write frames as PNG files into a new folder, which appears when all of them are there.

    Args:
        pixels: uint8 ``[T, h, w, 3]`` RGB.
        names: T file names.

    Raises:
        InputError: the folder cannot be written (``unwritable``).
    """
    partial = folder.parent / f".frames-{secrets.token_hex(8)}"  # named first: removed whenever a signal comes
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
        for image, name in zip(pixels, names, strict=True):
            (partial / name).write_bytes(_png(image))
        os.rename(partial, folder)
    except OSError as error:
        raise InputError(
            f"cannot write {display_name(folder)}",
            why=error.strerror or str(error),
            hint="-o elsewhere",
            code="unwritable",
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _png(image: NDArray[np.uint8]) -> bytes:
    """One picture as a PNG file. OpenCV's encoder fails where another library has brought a zlib of its own."""
    height, width = image.shape[:2]
    rows = np.diff(image.reshape(height, -1), axis=0, prepend=np.uint8(0))  # each row less the one above
    filtered = np.insert(rows, 0, 2, axis=1)  # which is the filter with this number
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits, red green blue
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(filtered.tobytes(), 4)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, body) for kind, body in chunks)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
