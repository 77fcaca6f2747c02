"""All commands, and the one place where exceptions become exit statuses. Imports nothing heavy."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from vidcomp._version import __version__
from vidcomp.cli import ask, bench, calibrate, caption, chat, doctor, frames, methods, models, probe, report
from vidcomp.cli.console import data, print_error
from vidcomp.errors import BatchFailures, UsageError, VidcompError

__all__ = ["app", "run"]

INTERRUPTED, TERMINATED = 130, 143

app = typer.Typer(
    name="vidcomp",
    help="Ask and caption videos with a fraction of the visual tokens, on stock Hugging Face models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit status: 0 done, 1 bug, 2 wrong usage, 3 unreadable input, 4 no model, "
    "5 some inputs of a batch failed, 6 out of memory, 130 interrupted.",
)
app.command()(ask.ask)
app.command()(chat.chat)
app.command()(caption.caption)
app.command()(report.report)
app.command()(probe.probe)
app.command()(frames.frames)
app.command()(methods.methods)
app.command()(calibrate.calibrate)
app.command()(models.models)
app.command()(doctor.doctor)
app.add_typer(bench.app, name="bench")


def _version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"vidcomp {__version__}\n")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="print the version", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


class _Terminated(BaseException):
    """SIGTERM arrived."""


def run(args: Sequence[str]) -> int:
    """Run one command line and return its exit status."""
    debug = "--debug" in args
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # an output that cannot carry a letter shows a mark instead
    with contextlib.suppress(ValueError):  # only the main thread may set handlers
        signal.signal(signal.SIGTERM, _raise_terminated)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job would ignore it
    try:
        return _said(int(app(args=list(args), prog_name="vidcomp", standalone_mode=False) or 0))
    except VidcompError as error:
        if "--json" in args and not isinstance(error, BatchFailures):
            data({"schema": 1, "status": "failed", "error": error.to_dict()})
        return _expected(error, debug)
    except typer.Exit as leave:
        return _said(int(leave.exit_code))
    except (typer.Abort, KeyboardInterrupt):
        return _said(INTERRUPTED)
    except _Terminated:
        return TERMINATED
    except (BrokenPipeError, SystemExit) as leave:
        return _left(leave)
    except Exception as error:  # the last line of defence: a bug, or a usage error of the command-line library
        if hasattr(error, "format_message"):
            return _expected(_usage(error), debug) if error.format_message() else UsageError.status  # help was shown
        return _bug(error, debug)
    finally:
        if line := sys.modules.get("vidcomp.video.line"):
            line.stop_nursery()


def _said(status: int) -> int:
    if status == INTERRUPTED:
        sys.stderr.write("\nstopped\n")
    return status


def _raise_terminated(*_: Any) -> None:
    raise _Terminated


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
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
