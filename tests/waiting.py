# SPDX-License-Identifier: Apache-2.0
"""Waiting for what can be seen. How long it takes does not matter: the limit ends what would wait for ever."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from vidcomp import video

PATIENCE_SECONDS = 600.0


def until(seen: Callable[[], bool], nudge: Callable[[], object] = lambda: None) -> None:
    """Return as soon as ``seen()`` holds; ``nudge`` is repeated until then.

    Raises:
        AssertionError: it never did.
    """
    end = time.monotonic() + PATIENCE_SECONDS
    while not seen():
        assert time.monotonic() < end, "waited in vain"
        nudge()
        time.sleep(0.02)


def read_frames(*args: Any, **settings: Any) -> video.Frames:
    """Read frames, and wait for the inspection of their file."""
    return video.read_frames(*args, **settings).wait()
