# SPDX-License-Identifier: Apache-2.0
"""Folder of the warm process: one that its user alone may enter. Imports nothing heavy."""

from __future__ import annotations

import os
import stat

__all__ = ["LOCK", "LOG", "SOCKET", "made_folder", "standing_socket"]

SOCKET, LOCK, LOG = "warm.sock", "warm.lock", "warm.log"


def standing_socket() -> str | None:
    """The socket of this user's warm process, None where there is none or where others could have put it there."""
    folder = _folder()
    path = os.path.join(folder, SOCKET)
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return path if stat.S_ISSOCK(found.st_mode) and found.st_uid == os.getuid() and _private(folder) else None


def made_folder() -> str:
    """The folder, made where it is missing.

    Raises:
        PermissionError: it is somebody else's, or others may enter it. OSError: it cannot be made.
    """
    folder = _folder()
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        pass
    if not _private(folder):
        raise PermissionError(f"{folder} is not a folder that you alone may enter")
    return folder


def _folder() -> str:
    """In the runtime folder of the session, or one of our own where the system has none."""
    for base in (os.environ.get("XDG_RUNTIME_DIR", ""), f"/run/user/{os.getuid()}"):
        if os.path.isabs(base) and _owned(base):
            return os.path.join(base, "vidcomp")
    return f"/tmp/vidcomp-{os.getuid()}"


def _owned(folder: str) -> bool:
    try:
        found = os.lstat(folder)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()


def _private(folder: str) -> bool:
    return _owned(folder) and not os.lstat(folder).st_mode & 0o077
