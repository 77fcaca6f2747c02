# SPDX-License-Identifier: Apache-2.0
"""All commands, and the one place where exceptions become exit statuses. Imports nothing heavy."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from functools import cache
from shutil import get_terminal_size
from typing import Annotated, Any

import typer

from vidcomp._version import __version__
from vidcomp.cli import (
    ask,
    bench,
    calibrate,
    caption,
    chat,
    compare,
    doctor,
    find,
    frames,
    methods,
    models,
    probe,
    report,
    rerun,
    scenes,
)
from vidcomp.cli.console import data, print_error
from vidcomp.cli.signals import INTERRUPTED, STOPPED, Interrupted, Terminated, raise_exceptions
from vidcomp.cli.warm import command as warm
from vidcomp.errors import BatchFailures, InputError, OutOfMemory, UsageError, VidcompError

__all__ = ["app", "commands", "fail", "outcome", "run"]

NO_MEMORY = ("failed to map segment", "Cannot allocate memory")  # words of the system's loader and of its C library
# Of a decoding process. FFmpeg has the second ones too, for a damaged header that asks for much memory.
NO_MEMORY_TO_DECODE = ("failed to map segment", "[Errno 12] Cannot allocate memory")

PANEL_COLUMNS = 80  # below, tables of options would cut their examples, and help is plain text

app = typer.Typer(
    name="vidcomp",
    help="Ask and caption videos with a fraction of the visual tokens, on stock Hugging Face models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit status: 0 done, 1 bug, 2 wrong usage, 3 unreadable input or unwritable output, 4 no model, "
    "5 some inputs of a batch failed, or a result could not be repeated, 6 out of memory, 130 interrupted.",
)
app.command()(ask.ask)
app.command()(chat.chat)
app.command()(caption.caption)
app.command()(find.find)
app.command()(report.report)
app.command()(compare.compare)
app.command()(rerun.rerun)
app.command()(probe.probe)
app.command()(frames.frames)
app.command()(scenes.scenes)
app.command()(methods.methods)
app.command()(calibrate.calibrate)
app.command()(models.models)
app.command()(warm.warm)
app.command()(doctor.doctor)
app.add_typer(bench.app, name="bench")


@app.command(name="help", hidden=True)
def _help(context: typer.Context, words: Annotated[list[str] | None, typer.Argument(metavar="COMMAND")] = None) -> None:
    """Show the help of a command, or of all."""
    raise typer.Exit(run([*(words or ()), "--help"]))


def _version(wanted: bool) -> None:
    if wanted:
        data(f"vidcomp {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("-V", "--version", help="print the version", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


def run(args: Sequence[str]) -> int:
    """Run one command line and return its exit status; no process that decodes stays."""
    try:
        return outcome(args)
    finally:
        if client := sys.modules.get("vidcomp.video.process.client"):
            client.stop_workers()


@cache
def commands(panels: bool) -> Any:
    """All commands, with tables of options in their help or with plain text; making them takes a while."""
    app.rich_markup_mode = "rich" if panels else None
    return typer.main.get_command(app)


def outcome(args: Sequence[str]) -> int:
    """Exit status of one command line in a process that goes on."""
    debug = "--debug" in args
    try:
        raise_exceptions()
        _require_folder()
        command = commands(get_terminal_size().columns >= PANEL_COLUMNS)
        return _said(int(command(args=list(args), prog_name="vidcomp", standalone_mode=False) or 0))
    except VidcompError as error:
        return _failed(_starved(error) or error, args, debug)
    except typer.Exit as leave:
        return _said(int(leave.exit_code))
    except (typer.Abort, KeyboardInterrupt):
        return _said(INTERRUPTED)
    except Interrupted as stop:
        sys.stderr.write(f"{STOPPED.rstrip()}: {stop}\n")
        return INTERRUPTED
    except Terminated as end:
        return end.status
    except (BrokenPipeError, SystemExit) as leave:
        return _left(leave)
    except Exception as error:  # the last line of defence: a bug, or a usage error of the command-line library
        if starved := _starved(error):
            return _failed(starved, args, debug)
        if hasattr(error, "format_message"):
            return _expected(_usage(error), debug) if error.format_message() else UsageError.status  # help was shown
        return _bug(error, debug)


def _require_folder() -> None:
    """Libraries end the process themselves when the current folder was deleted."""
    try:
        os.getcwd()
    except OSError as error:
        raise UsageError(
            "the current folder is gone", why=error.strerror or str(error), hint="cd to another folder"
        ) from error


def _said(status: int) -> int:
    if status == INTERRUPTED:
        sys.stderr.write(STOPPED)
    return status


def _starved(error: Exception) -> OutOfMemory | None:
    """Message when a library could not be loaded, here or in the decoding process, for lack of memory."""
    why, signs = (error.why, NO_MEMORY_TO_DECODE) if isinstance(error, InputError) else (str(error), NO_MEMORY)
    if not isinstance(error, MemoryError) and not any(words in why for words in signs):
        return None
    starved = OutOfMemory("not enough memory", why=why, hint="close other programs, or raise the limit: ulimit -v")
    starved.__cause__ = error  # --debug shows it
    return starved


def fail(error: VidcompError, args: Sequence[str]) -> int:
    """Tell an error as the command line does, and return its exit status."""
    return _failed(error, args, "--debug" in args)


def _failed(error: VidcompError, args: Sequence[str], debug: bool) -> int:
    if "--json" in args and not isinstance(error, BatchFailures):
        try:
            data({"schema": 1, "status": "failed", "error": error.to_dict()})
        except VidcompError as unwritable:
            print_error(unwritable)
    return _expected(error, debug)


def _expected(error: VidcompError, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    print_error(error)
    return error.status


def _usage(error: Any) -> UsageError:
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "vidcomp"
    return UsageError(error.format_message().rstrip("."), hint=f"{command} --help")


def _bug(error: Exception, debug: bool) -> int:
    text = "".join(traceback.format_exception(error))
    if debug:
        sys.stderr.write(text)
    where = "--debug"
    with contextlib.suppress(OSError):
        with tempfile.NamedTemporaryFile(
            "w", prefix="vidcomp-", suffix=".log", delete=False, encoding="utf-8"
        ) as saved:
            saved.write(text)
        where = saved.name
    why = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
    print_error(VidcompError("this is a bug in vidcomp", why=why, hint=f"report it with {where}"))
    return VidcompError.status


def _left(leave: BaseException) -> int:
    """Our pipe has no reader any more, which the command-line library turns into an exit; nobody is left to read."""
    if isinstance(leave, SystemExit) and not isinstance(leave.__context__, BrokenPipeError):
        raise leave
    return 0
