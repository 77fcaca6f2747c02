# SPDX-License-Identifier: Apache-2.0
"""The command line's side: hand over a command, pass signals on, end with its status. Imports nothing heavy."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from types import FrameType

from vidcomp.cli.signals import SIGNALS, end_at_once
from vidcomp.cli.warm.messages import Channel, Message, connected
from vidcomp.cli.warm.surroundings import surroundings

__all__ = ["run_there", "told"]

GREETING_SECONDS = 2.0  # a process that listens answers within this
TURN_SECONDS = 5.0  # to wait for the command before; about what loading the embedded model takes
SILENCE_SECONDS = 60.0  # it says every second that it is alive
STOPPING_SECONDS = 3.0  # that a command may take to end after a signal


def run_there(args: list[str], path: str) -> int | None:
    """Have the warm process run a command; None when this process has to: nothing has been written then."""
    if not _streams_are_open():
        return None
    try:
        channel = connected(path, GREETING_SECONDS)
    except OSError:  # it ended and left its socket behind
        return None
    try:
        why = _refused(channel, args)
        if why is not None:
            _say(f"note: {why}, so the model is loaded here\n" if why and "--quiet" not in args else "")
            return None
        return _followed(channel, args)
    finally:
        channel.close()
        end_at_once()


def told(path: str, kind: str, seconds: float = GREETING_SECONDS) -> Message | None:
    """The answer of the warm process to ``status`` or ``stop``; None when it does not answer."""
    try:
        channel = connected(path, seconds)
    except OSError:
        return None
    try:
        channel.send({"kind": kind})
        return channel.receive(seconds)
    except (OSError, ValueError):
        return None
    finally:
        channel.close()


def _streams_are_open() -> bool:
    try:
        return all(os.fstat(number) for number in range(3))
    except OSError:
        return False


def _refused(channel: Channel, args: list[str]) -> str | None:
    """None once it is our turn; else the reason, empty where there is nothing to tell."""
    try:
        folder = os.getcwd()
        channel.send({"kind": "run", "args": args, "folder": folder, "surroundings": surroundings()})
        answer = channel.receive(GREETING_SECONDS)
    except TimeoutError:
        return "vidcomp warm does not answer"
    except OSError:
        return ""
    if answer is None or "no" in answer:
        return str(answer["no"]) if answer else ""
    try:
        return None if channel.receive(TURN_SECONDS) and _handed_over(channel) else ""
    except TimeoutError:
        return "vidcomp warm is busy with another command"
    except OSError:
        return ""


def _handed_over(channel: Channel) -> bool:
    """Give the streams and the folder to the process that waits for them."""
    mask = os.umask(0o077)
    os.umask(mask)
    place = os.open(".", os.O_RDONLY)
    try:
        channel.send({"environment": dict(os.environ), "mask": mask}, (0, 1, 2, place))
    finally:
        os.close(place)
    return True


def _followed(channel: Channel, args: list[str]) -> int:
    """Wait for the end of the command; signals go to it, not to this process."""
    hit: list[tuple[int, float]] = []

    def pass_on(number: int, _frame: FrameType | None) -> None:
        hit.append((number, time.monotonic()))
        with contextlib.suppress(OSError):
            channel.send({"signal": number}, seconds=1.0)

    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, pass_on)
    heard = time.monotonic()
    while True:
        try:
            message = channel.receive(0.25)
        except TimeoutError:
            message = {}
        except (OSError, ValueError):
            message = None
        if message is None:
            return 128 + hit[0][0] if hit else _lost(args, "it crashed, was killed, or had not enough memory")
        if "status" in message:
            return int(message["status"])
        heard = time.monotonic() if message else heard
        if hit and time.monotonic() - hit[0][1] > STOPPING_SECONDS:
            return 128 + hit[0][0]
        if time.monotonic() - heard > SILENCE_SECONDS:
            return _lost(args, f"it was silent for {SILENCE_SECONDS:.0f} s")


def _lost(args: list[str], why: str) -> int:
    """Say that the process is gone, as any error is told."""
    end_at_once()
    from vidcomp.cli.app import fail
    from vidcomp.errors import ModelError

    gone = ModelError("vidcomp warm ended in the middle of the command", why=why, code="warm_ended",
                      hint="the same command with --no-warm")  # fmt: skip
    return fail(gone, args)


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, text.encode())
