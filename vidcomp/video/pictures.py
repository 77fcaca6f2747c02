"""Frames as picture files: all of them, or none."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vidcomp.errors import InputError

__all__ = ["write_pictures"]


def write_pictures(pixels: NDArray[np.uint8], names: Sequence[str], folder: Path) -> None:
    """Write frames as PNG files into a new folder, which appears when all of them are there.

    Args:
        pixels: uint8 ``[T, h, w, 3]`` RGB.
        names: T file names.

    Raises:
        InputError: the folder cannot be written (``unwritable``).
    """
    import cv2

    partial = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".frames-", dir=folder.parent))
        for image, name in zip(pixels, names, strict=True):
            _, encoded = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
            (partial / name).write_bytes(encoded.tobytes())
        partial.chmod(0o777 & ~_umask())
        os.rename(partial, folder)
        partial = None
    except OSError as error:
        raise InputError(
            f"cannot write {folder}", why=error.strerror or str(error), hint="-o elsewhere", code="unwritable"
        ) from error
    finally:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)


def _umask() -> int:
    """Permissions that new folders leave out; the system tells only when it is set."""
    current = os.umask(0)
    os.umask(current)
    return current
