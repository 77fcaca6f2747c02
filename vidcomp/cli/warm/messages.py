# SPDX-License-Identifier: Apache-2.0
"""Messages between a command line and the warm process: JSON of stated length, with open files beside them."""

from __future__ import annotations

import json
import os
import socket
import struct
import time
from collections.abc import Sequence
from typing import Any

__all__ = ["Channel", "Message", "connected", "peer_is_this_user", "supported"]

Message = dict[str, Any]

LONGEST_BYTES = 16 << 20
PIECE_BYTES = 1 << 16
MOST_DESCRIPTORS = 8


def supported() -> bool:
    """True if this system tells who is at the other end of a socket, and passes open files through it."""
    return hasattr(socket, "SO_PEERCRED") and hasattr(socket, "send_fds")


def connected(path: str, seconds: float) -> Channel:
    """A channel to the process that listens there.

    Raises:
        OSError: nobody does, or somebody else.
    """
    end = socket.socket(socket.AF_UNIX)
    try:
        end.settimeout(seconds)
        end.connect(path)
        if not peer_is_this_user(end):
            raise PermissionError("the process at the socket is another user's")
    except BaseException:
        end.close()
        raise
    return Channel(end)


def peer_is_this_user(end: socket.socket) -> bool:
    """True if the process at the other end was started by the user of this one."""
    _pid, user, _group = struct.unpack("3i", end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return bool(user == os.getuid())


class Channel:
    """One end of a connection.

    Attributes:
        descriptors: open files that came with the messages.
    """

    def __init__(self, end: socket.socket) -> None:
        self._end, self._pending = end, b""
        self.descriptors: list[int] = []

    def send(self, message: Message, descriptors: Sequence[int] = (), seconds: float = 5.0) -> None:
        """Send a message, and open files beside it. Raises OSError when the other side is gone or does not read."""
        text = json.dumps(message).encode()
        self._end.settimeout(seconds)
        socket.send_fds(self._end, [len(text).to_bytes(4, "big")], descriptors)
        self._end.sendall(text)

    def receive(self, seconds: float) -> Message | None:
        """The next message; None when the other side is gone. Raises TimeoutError when none comes in time."""
        until = time.monotonic() + seconds
        while (message := self._whole()) is None:
            self._end.settimeout(max(0.001, until - time.monotonic()))
            try:
                piece, descriptors, _, _ = socket.recv_fds(self._end, PIECE_BYTES, MOST_DESCRIPTORS)
            except TimeoutError:
                raise
            except OSError:
                return None
            self.descriptors += descriptors
            if not piece:
                return None
            self._pending += piece
        return message

    def _whole(self) -> Message | None:
        """The first message of what came so far, once it is complete."""
        length = int.from_bytes(self._pending[:4], "big")
        if length > LONGEST_BYTES:
            raise ConnectionError("this is no message")
        if len(self._pending) < 4 + length:
            return None
        text, self._pending = self._pending[4 : 4 + length], self._pending[4 + length :]
        return dict(json.loads(text))

    def close(self) -> None:
        """Leave the connection, and close the files that came through it. May be called twice."""
        self._end.close()
        while self.descriptors:
            os.close(self.descriptors.pop())
