# SPDX-License-Identifier: Apache-2.0
"""Looking at a path before any decoder does: every kind of bad input has its own error."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from vidcomp.errors import InputError
from vidcomp.video.names import address_in, display_name, escaped, printable

__all__ = ["display_name", "escaped", "open_video", "printable", "refuse_text"]

HEAD_BYTES = 1024
# Formats that are text and yet make a demuxer open other files or addresses: never hand them to a decoder.
PLAYLISTS = (b"#EXTM3U", b"ffconcat", b"<?xml", b"<MPD", b"v=0\r\n", b"v=0\n", b"[playlist]")
TEXT_VIDEO = (b"YUV4MPEG2 ",)  # raw video whose header is text


def open_video(path: str | os.PathLike[str]) -> int:
    """Open a regular, non-empty file for reading and return its descriptor.

    A FIFO, socket or device is refused without being opened, because opening it could block.

    Raises:
        InputError: with the codes ``bad_name``, ``missing``, ``symlink_loop``, ``no_permission``, ``directory``,
            ``not_regular``, ``empty``, ``address`` or ``unreadable``.
    """
    name = display_name(path)
    try:
        facts = os.stat(path)
        if stat.S_ISDIR(facts.st_mode):
            os.scandir(path).close()  # whether it can be looked into
        _require_video_file(facts, name)
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise _explain(error, Path(path), name) from error
    except ValueError as error:
        raise InputError(
            f"cannot open {name}", why=str(error), hint="give the path of a video file", code="bad_name"
        ) from error
    try:
        _require_video_file(os.fstat(fd), name)  # the path may have changed since it was looked at
    except InputError:
        os.close(fd)
        raise
    return fd


def _require_video_file(facts: os.stat_result, name: str) -> None:
    if stat.S_ISDIR(facts.st_mode):
        raise InputError(
            f"{name} is a directory",
            why="a single video file was expected",
            hint="name a file in it, or: vidcomp caption FOLDER",
            code="directory",
        )
    if not stat.S_ISREG(facts.st_mode):
        raise InputError(
            f"{name} is not a regular file",
            why=f"it is a {_special(facts.st_mode)}, and reading it could block for ever",
            hint="save the stream to a file first",
            code="not_regular",
        )
    if facts.st_size == 0:
        raise InputError(
            f"{name} is empty",
            why="the file has 0 bytes",
            hint="copy or download it again",
            code="empty",
        )


def _special(mode: int) -> str:
    kinds = ((stat.S_ISFIFO, "FIFO"), (stat.S_ISSOCK, "socket"), (stat.S_ISCHR, "character device"))
    return next((label for test, label in kinds if test(mode)), "block device")


def _explain(error: OSError, path: Path, name: str) -> InputError:
    if isinstance(error, PermissionError):
        return InputError(
            f"cannot open {name}",
            why="permission denied",
            hint=f"check the rights of the file and its folders: ls -ld {display_name(path.parent)}",
            code="no_permission",
        )
    if error.errno == errno.ELOOP:
        return InputError(
            f"cannot open {name}",
            why="its symbolic links run in a circle",
            hint="name the real file",
            code="symlink_loop",
        )
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
        return _missing(error, path, name)
    return InputError(f"cannot open {name}", why=error.strerror or str(error), hint="check the disk or share it is on")


def _missing(error: OSError, path: Path, name: str) -> InputError:
    """Nothing has this name: what was meant, perhaps."""
    if address := address_in(path):
        return InputError(
            f"{escaped(printable(address))} is an address",
            why="videos are read from files of this machine, and nothing is downloaded",
            hint="download it first, then name the file",
            code="address",
        )
    why, hint = (error.strerror or "not found").lower(), "check the spelling"
    if error.errno == errno.ENOENT:
        folder = display_name(path.parent)
        why = f"nothing in {folder} has that name" if path.parent.is_dir() else f"there is no folder {folder}"
    if error.errno == errno.ENOENT and path.is_symlink():
        why = "the symbolic link points to nothing"
    elif str(path) == "-":
        why = "standard input cannot be read: a decoder goes back and forth in a file"
        hint = "save it to a file first"
    elif set(name) & set("*?["):
        hint = "without quotes the shell replaces a pattern by the files that it fits"
    return InputError(f"no such file: {name}", why=why, hint=hint, code="missing")


def refuse_text(fd: int, name: str) -> None:
    """Refuse text and playlists, whatever the file is called.

    Raises:
        InputError: code ``not_a_video``.
    """
    head = os.pread(fd, HEAD_BYTES, 0)
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    playlist = start.startswith(PLAYLISTS)
    if head.startswith(TEXT_VIDEO) or not (playlist or _is_text(head)):
        return
    raise InputError(
        f"{name} is not a video",
        why="it is a playlist that points to other files" if playlist else "it contains text",
        hint="name the video file itself",
        code="not_a_video",
    )


def _is_text(head: bytes) -> bool:
    control = set(range(32)) - {7, 8, 9, 10, 12, 13, 27}
    if control & set(head):
        return False
    try:
        head[: len(head) - 3 if len(head) == HEAD_BYTES else None].decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start >= len(head) - 6 and len(head) == HEAD_BYTES
    return True
