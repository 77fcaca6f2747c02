# SPDX-License-Identifier: Apache-2.0
"""The process that stays: it loads one model, and runs one command after the other until nobody asks any more."""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import pickle
import queue
import signal
import socket
import sys
import threading
import time
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from types import FrameType
from typing import Any

import vidcomp
from vidcomp.cli import signals
from vidcomp.cli.session import keep_model
from vidcomp.cli.warm.kept import Kept
from vidcomp.cli.warm.messages import Channel, Message, peer_is_this_user
from vidcomp.cli.warm.place import LOCK, SOCKET, made_folder
from vidcomp.cli.warm.stage import as_there, run_command
from vidcomp.cli.warm.surroundings import differing, surroundings
from vidcomp.config import ModelConfig, RunConfig
from vidcomp.errors import UsageError, VidcompError

__all__ = ["already", "main"]

HELLO_SECONDS = 5.0  # that a client may take to say what it wants
HAND_OVER_SECONDS = 2.0  # and to hand over its streams when it is its turn
BEAT_SECONDS = 1.0
SAMPLE = Path(vidcomp.__file__).parent / "video" / "sample.mp4"
ROOMS = ("engine", "report", "batch", "methods", "schedules", "tower", "spans", "families")


def main(settings: dict[str, Any], idle_seconds: float, ready: int) -> None:
    """Load a model and serve.

    Args:
        settings: fields of the model's settings.
        idle_seconds: it ends when nobody asked for so long.
        ready: descriptor for the word that it stands, or for the error that it does not.
    """
    around = surroundings()
    with open(ready, "wb") as told:
        try:
            folder = made_folder()
            lock = _locked(folder)
            config = ModelConfig(**settings)
            kept = Kept.now(config)
            _load(config)
            server = _Server(folder, kept, around, idle_seconds)
        except VidcompError as error:
            pickle.dump(error, told)
            return
        except OSError as error:
            pickle.dump(UsageError("vidcomp warm cannot start", why=str(error)), told)
            return
        pickle.dump(None, told)
    try:
        server.run()
    finally:
        server.close()
        lock.close()
        sys.stdout.flush()
        os._exit(0)


def already() -> UsageError:
    """The error of a second one."""
    return UsageError("vidcomp warm runs already, or is just starting", why="it keeps one model",
                      hint="vidcomp warm --status, vidcomp warm --stop", code="warm_runs")  # fmt: skip


def _locked(folder: str) -> Any:
    """An open file that tells, as long as this process lives, that it does, and its number."""
    lock = open(os.open(os.path.join(folder, LOCK), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600), "r+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise already() from error
    lock.truncate()
    lock.write(str(os.getpid()))
    lock.flush()
    return lock


def _load(config: ModelConfig) -> None:
    """Load the model and all code that commands load on the way, and answer once: the first answer is the slowest."""
    from vidcomp.engine.run import VideoLM, load_config

    lm = load_config(RunConfig(model=config))
    keep_model(config, lm.family)
    lm.close()
    for room in ROOMS:
        package = import_module(f"vidcomp.{room}")
        for module in walk_packages(package.__path__, f"{package.__name__}."):
            import_module(module.name)
    with contextlib.suppress(VidcompError), VideoLM(lm.family, RunConfig(model=config)) as again:
        again.ask(str(SAMPLE), "what happens?", frames=2, max_new_tokens=2)


@dataclass
class _Visitor:
    """A client whose command is to be run."""

    channel: Channel
    args: list[str]


class _Server:
    """Listens in a thread of its own; the main thread runs commands, because only there signals can stop them."""

    def __init__(self, folder: str, kept: Kept, around: Message, idle_seconds: float) -> None:
        self._kept, self._around, self._idle_seconds = kept, around, idle_seconds
        self._path = os.path.join(folder, SOCKET)
        self._begin, self._since, self._count, self._current = time.time(), time.monotonic(), 0, ""
        self._waiting: queue.SimpleQueue[_Visitor | None] = queue.SimpleQueue()
        self._listener = socket.socket(socket.AF_UNIX)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)  # of one that was killed: this process holds the lock
        mask = os.umask(0o177)
        try:
            self._listener.bind(self._path)
        finally:
            os.umask(mask)
        self._listener.listen(16)

    def run(self) -> None:
        """Serve until nobody has asked for long, or somebody says stop."""
        os.chdir("/")
        gc.freeze()
        self._idle_signals()
        threading.Thread(target=self._listen, daemon=True).start()
        while True:
            try:
                visitor = self._waiting.get(timeout=max(0.0, self._since + self._idle_seconds - time.monotonic()))
            except queue.Empty:
                return
            if visitor is None or not self._serve(visitor):
                return
            self._since = time.monotonic()

    def close(self) -> None:
        """Leave no socket behind, and no process that decodes."""
        with contextlib.suppress(OSError):
            os.unlink(self._path)
        self._listener.close()
        from vidcomp.video.process.client import stop_workers

        stop_workers()

    # -- the listener

    def _listen(self) -> None:
        while True:
            try:
                end, _ = self._listener.accept()
            except OSError:
                return
            if peer_is_this_user(end):
                threading.Thread(target=self._greet, args=(Channel(end),), daemon=True).start()
            else:
                end.close()

    def _greet(self, channel: Channel) -> None:
        """Answer at once; a command waits for its turn."""
        try:
            message = channel.receive(HELLO_SECONDS) or {}
            if message.get("kind") == "run":
                why = self._refusal(message)
                channel.send({"no": why} if why is not None else {"wait": True})
                if why is None:
                    self._waiting.put(_Visitor(channel, message["args"]))
                    return
            elif message.get("kind") == "stop":
                channel.send(self._status())
                self._waiting.put(None)
            elif message.get("kind") == "status":
                channel.send(self._status())
        except (OSError, ValueError, KeyError):
            pass
        channel.close()

    def _refusal(self, message: Message) -> str | None:
        other = differing(self._around, message["surroundings"])
        if other:
            return f"vidcomp warm was started with {other}"
        return self._kept.refusal(message["args"], message["folder"])

    def _status(self) -> Message:
        left = self._idle_seconds if self._current else self._since + self._idle_seconds - time.monotonic()
        return {
            "running": True, "pid": os.getpid(), "model": asdict(self._kept.config), "commands": self._count,
            "busy": self._current, "up_seconds": round(time.time() - self._begin, 1),
            "idle_seconds_left": round(left, 1),
        }  # fmt: skip

    # -- one command

    def _serve(self, visitor: _Visitor) -> bool:
        """Run a command for a client; False when this process has to end."""
        channel, goes_on = visitor.channel, True
        try:
            channel.send({"ready": True})
            handed = channel.receive(HAND_OVER_SECONDS)
            if handed is None or len(channel.descriptors) != 4:
                return True
            self._current, self._count = visitor.args[0], self._count + 1
            with as_there(channel.descriptors, handed["environment"], handed["mask"]):
                status, goes_on = self._run(visitor)
            channel.send({"status": status})
        except (OSError, ValueError, KeyError):  # it is gone
            pass
        finally:
            self._current = ""
            channel.close()
        gc.collect()  # of this command alone: everything older was set aside
        return goes_on

    def _run(self, visitor: _Visitor) -> tuple[int, bool]:
        """Exit status of a command, and whether this process goes on."""
        follower = _Follower(visitor.channel)
        try:
            signals.raise_exceptions()
            follower.start()
            status = run_command(visitor.args)
        except KeyboardInterrupt:
            status = signals.INTERRUPTED
        except signals.Terminated as end:
            status = end.status
        finally:
            self._idle_signals()
            follower.finish()
        return status, status != 128 + signal.SIGTERM or follower.passed_on(signal.SIGTERM)

    def _idle_signals(self) -> None:
        """Between commands a signal that came too late does nothing, and SIGTERM ends the process."""
        signal.signal(signal.SIGINT, lambda *_: None)
        signal.signal(signal.SIGHUP, lambda *_: None)
        signal.signal(signal.SIGTERM, self._end)
        signal.setitimer(signal.ITIMER_REAL, 0)  # the clock of a command that was stopped

    def _end(self, _number: int, _frame: FrameType | None) -> None:
        self._waiting.put(None)


class _Follower(threading.Thread):
    """Follows a client while its command runs: passes its signals on, and stops the command when it is gone."""

    def __init__(self, channel: Channel) -> None:
        super().__init__(daemon=True)
        self._channel, self._lock, self._over = channel, threading.Lock(), False
        self._signals: set[int] = set()

    def run(self) -> None:
        """Until the command has ended."""
        while not self._over:
            try:
                message = self._channel.receive(BEAT_SECONDS)
                if message is None:
                    self._pass(signal.SIGHUP)
                    return
                if message.get("signal") in signals.SIGNALS:
                    self._pass(message["signal"])
            except TimeoutError:
                with contextlib.suppress(OSError), self._lock:
                    if not self._over:
                        self._channel.send({"alive": True}, seconds=0.01)
            except (OSError, ValueError):
                self._pass(signal.SIGHUP)
                return

    def finish(self) -> None:
        """From now on nothing is passed on."""
        with self._lock:
            self._over = True

    def passed_on(self, number: int) -> bool:
        """True if the client was hit by this signal."""
        return number in self._signals

    def _pass(self, number: int) -> None:
        with self._lock:
            if not self._over:
                self._signals.add(number)
                signal.pthread_kill(threading.main_thread().ident or 0, number)
