# SPDX-License-Identifier: Apache-2.0
"""vidcomp warm: keep a model loaded, so that commands begin with the answer."""

from __future__ import annotations

import fcntl
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from typing import IO, Annotated, Any

import typer

from vidcomp.cli.console import Ui, data
from vidcomp.cli.options import with_config, with_ui
from vidcomp.cli.warm.client import told
from vidcomp.cli.warm.messages import Message, supported
from vidcomp.cli.warm.place import LOCK, LOG, made_folder, standing_socket
from vidcomp.config import ModelConfig, RunConfig
from vidcomp.errors import ModelError, UsageError, VidcompError

__all__ = ["NoWarm", "warm"]

NoWarm = Annotated[bool, typer.Option("--no-warm", help="load the model here, also where vidcomp warm keeps it")]

STOP_SECONDS = 10.0
# -P: nothing is imported from the current folder by accident.
BOOT = (
    "import json, sys; boot = json.loads(sys.argv[1]); sys.path[:] = boot['path'];"
    "from vidcomp.cli.warm.server import main; main(boot['settings'], boot['idle'], boot['ready'])"
)


@with_ui
@with_config(ModelConfig)
def warm(
    idle: Annotated[float, typer.Option("--idle", help="minutes without a command after which it ends")] = 15.0,
    stop: Annotated[bool, typer.Option("--stop", help="end the process; a running command is finished first")] = False,
    status: Annotated[bool, typer.Option("--status", help="print the model that is kept, and since when")] = False,
    *,
    config: RunConfig,
    ui: Ui,
) -> None:
    """Keep a model loaded in the background; ask, caption and report with the same model settings use it."""
    if stop and status:
        raise UsageError("--stop together with --status", hint="give one of them", code="bad_option")
    if not 0 < idle <= 1e6:
        raise UsageError(f"--idle {idle:g}", why="it must be a number of minutes above 0", code="bad_option")
    if not supported():
        raise UsageError("vidcomp warm does not work on this system", code="unsupported",
                         why="it does not tell who is at the other end of a socket")  # fmt: skip
    if status:
        _tell(_status(), ui)
    elif stop:
        _tell({"running": False, "stopped": _stopped()}, ui)
    else:
        _tell(_started(config.model, idle, ui), ui)


def _tell(found: Message, ui: Ui) -> None:
    if ui.json:
        data(found)
    elif found["running"]:
        busy = f"busy with {found['busy']}" if found["busy"] else f"ends in {found['idle_seconds_left'] / 60:.0f} min"
        done = f"{found['commands']} commands in {found['up_seconds'] / 60:.0f} min"
        data(f"{found['model']['model']} is warm: process {found['pid']}, {done}, {busy}")
    else:
        data("stopped" if found.get("stopped") else "nothing is warm")


def _status() -> Message:
    path = standing_socket()
    return (told(path, "status") if path else None) or {"running": False}


def _started(model: ModelConfig, idle_minutes: float, ui: Ui) -> Message:
    """Start the process, wait until it stands, and return its status."""
    from vidcomp.cli.warm.server import already

    running = _status()
    if running["running"]:
        if running["model"] != asdict(model):
            raise already()
        return running
    ui.note(f"loading {model.model}; vidcomp warm --stop ends it, and so do {idle_minutes:g} minutes without a command")
    try:
        log = os.open(os.path.join(made_folder(), LOG), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise UsageError("vidcomp warm cannot start", why=str(error)) from error
    read, write = os.pipe()
    boot = {"path": [os.path.abspath(entry) for entry in sys.path], "settings": asdict(model),
            "idle": idle_minutes * 60, "ready": write}  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", BOOT, json.dumps(boot)],
        stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=(write,), start_new_session=True,
    )  # fmt: skip
    os.close(write)
    os.close(log)
    try:
        with open(read, "rb") as line:
            _wait(line)
    except BaseException:
        process.kill()
        process.wait()
        raise
    process.returncode = 0  # it is to outlive this process
    return _status()


def _wait(line: IO[bytes]) -> None:
    try:
        error: VidcompError | None = pickle.load(line)
    except (EOFError, pickle.UnpicklingError):
        log = os.path.join(made_folder(), LOG)
        error = ModelError("the warm process ended while it was loading", why=f"its last words are in {log}",
                           hint="vidcomp doctor", code="warm_ended")  # fmt: skip
    if error is not None:
        raise error


def _stopped() -> bool:
    """End the process: it finishes what it does; one that does not answer is killed. False when none runs."""
    path = standing_socket()
    answered = told(path, "stop") if path else None
    until = time.monotonic() + STOP_SECONDS
    found = False
    while (pid := _holder()) is not None:
        found = True
        if answered is None:
            os.kill(pid, signal.SIGKILL)
        elif answered["busy"]:
            until = time.monotonic() + STOP_SECONDS
        elif time.monotonic() > until:
            answered = None
        time.sleep(0.02)
    return found or answered is not None


def _holder() -> int | None:
    """Number of the process that holds the lock, None when none does."""
    try:
        lock: Any = open(os.path.join(made_folder(), LOCK), "r+")
    except OSError:
        return None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            text = lock.read()
            return int(text) if text.isdecimal() else None
    return None
