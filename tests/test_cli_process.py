# SPDX-License-Identifier: Apache-2.0
"""The command line as a process: what it loads, its streams, its signals."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from clips import make_clip
from command_line import QUESTION, SHORT, command, records
from waiting import PATIENCE_SECONDS, until


def test_help_needs_no_torch():
    code = (
        "import sys, vidcomp.cli.app as a; a.run(['--help']); sys.exit('torch' in sys.modules or 'cv2' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=False).returncode == 0


def test_version():
    done = subprocess.run(command("--version"), capture_output=True, text=True, check=True)
    assert done.stdout.startswith("vidcomp ")


def test_nano_never_connects(clip):
    code = (
        "import socket, sys\n"
        "def refuse(*a, **k): raise AssertionError('a connection was attempted')\n"
        "socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse\n"
        "from vidcomp.cli.app import run\n"
        f"sys.exit(run(['ask', {str(clip)!r}, 'first?', '--segmenter', 'dinov2', '--max-new-tokens', '2']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_closed_pipe_is_no_error(clip):
    line = " ".join(command("ask", clip, "'first?'", "--json", *SHORT)) + " | true; exit ${PIPESTATUS[0]}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("to", [">/dev/full", ">&-"])
@pytest.mark.parametrize("args", [["frames", "CLIP", "--json"], ["probe", "CLIP"], ["--version"]])
def test_output_that_cannot_be_written_is_status_3(clip, to, args):
    line = " ".join(command(*(clip if arg == "CLIP" else arg for arg in args)))
    done = subprocess.run(["bash", "-c", f"{line} {to}"], capture_output=True, text=True)
    assert done.returncode == 3
    assert done.stderr.splitlines()[0] == "error: cannot write the output"
    assert len(done.stderr.splitlines()) == 3


def test_a_slow_reader_of_a_non_blocking_stream_gets_everything():
    """Whoever shares a pipe may have made it non-blocking; a full one is then waited for."""
    code = (
        "import sys; from vidcomp.cli.streams import guard_streams; guard_streams();"
        "[(print(i), print(i, file=sys.stderr)) for i in range(9999)]"
    )
    read, write = os.pipe()
    os.set_blocking(write, False)
    with subprocess.Popen([sys.executable, "-c", code], stdout=write, stderr=write) as speaker, open(read) as hearer:
        until(lambda: speaker.poll() is not None or not select.select([], [write], [], 0)[1])  # the pipe is full
        os.close(write)
        numbers = [int(line) for line in hearer]
    assert speaker.returncode == 0
    assert sorted(numbers) == sorted([*range(9999), *range(9999)])


@pytest.mark.parametrize("to", ["2>/dev/full", "2>&-", ">/dev/full", ">&- 2>&-"])
def test_the_status_is_that_of_the_error_also_where_nothing_can_be_said(to):
    line = " ".join(command("frames", "/nowhere", "--json"))
    done = subprocess.run(["bash", "-c", f"{line} {to}"], capture_output=True, text=True)
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    assert "2>" in to or "no such file: /nowhere" in done.stderr


@pytest.mark.parametrize("library", ["typer", "torch"])
@pytest.mark.parametrize(("kind", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_obeyed_while_a_library_that_swallows_exceptions_is_loaded(clip, tmp_path, library, kind, status):
    (tmp_path / f"{library}.py").write_text(
        f"import os\ntry:\n    os.kill(os.getpid(), {int(kind)})\n    os.getpid()\n"
        "except BaseException:\n    pass\nraise ImportError('the signal was lost')\n"
    )
    done = subprocess.run(
        command("ask", clip, QUESTION), capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(tmp_path)}
    )
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr == ("\nstopped\n" if kind == signal.SIGINT else "")


@pytest.mark.parametrize(("kind", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_a_batch_and_keep_finished_lines(clip, tmp_path, kind, status):
    for number in range(300):
        (tmp_path / f"{number:03}.mp4").write_bytes(clip.read_bytes())
    output = tmp_path / "out.jsonl"
    work = subprocess.Popen(command("caption", tmp_path, "-o", output, *SHORT), stderr=subprocess.PIPE, text=True)
    until(lambda: output.exists() and output.read_text().count("\n") >= 3)  # the settings, and two records
    work.send_signal(kind)
    _, err = work.communicate(timeout=PATIENCE_SECONDS)
    assert work.returncode == status
    assert "Traceback" not in err
    assert ("saved, the same command goes on" in err) == (kind == signal.SIGINT)
    assert len(records(output)) >= 2


def under_a_terminal():
    """What the tests inherit when they run without one, and a shell cannot undo."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.mark.parametrize(("kind", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_background_job_of_a_script_hears_signals_too(tmp_path, kind, status):
    """A shell starts those with SIGINT ignored. Nothing is written, no process stays."""
    long = make_clip(tmp_path / "long.mp4", frames=2000)
    words = [*command("frames", long, "--frames", 2000, "-o", tmp_path / "pictures")]
    line = ["bash", "-c", '"$@" & echo $!; wait $!; echo $?', "bash", *words]
    script = subprocess.Popen(line, stdout=subprocess.PIPE, text=True, preexec_fn=under_a_terminal)
    pid = int(script.stdout.readline())
    until(lambda: any(tmp_path.glob(".frames-*/*")))
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    os.kill(pid, kind)
    assert script.communicate(timeout=PATIENCE_SECONDS)[0].split() == [str(status)]
    assert sorted(os.listdir(tmp_path)) == ["long.mp4"]
    assert not any(Path(f"/proc/{child}").exists() for child in children)


def as_process(code):
    """Run Python code that is hit by signals: exit status and what it said on stderr."""
    begin = "import os, signal, time, weakref; from vidcomp.cli.signals import *; raise_exceptions()\n"
    line = [sys.executable, "-c", begin + code]
    done = subprocess.run(line, capture_output=True, text=True, timeout=PATIENCE_SECONDS, preexec_fn=under_a_terminal)
    return done.returncode, done.stderr


def test_further_signals_do_not_break_into_cleaning_up():
    code = (
        "try:\n try:\n  signal.raise_signal(1)\n finally:\n"
        "  [signal.raise_signal(number) for number in (1, 2, 2, 15)]; os.write(2, b'clean')\n"
        "except Terminated as end:\n os._exit(end.status)"
    )
    assert as_process(code) == (129, "clean")


def test_cleaning_up_that_hangs_is_ended():
    assert as_process("try:\n signal.raise_signal(2)\nfinally:\n time.sleep(60)") == (130, "\nstopped\n")


def test_whoever_goes_on_after_a_signal_hears_the_next():
    code = (
        "for _ in range(3):\n try:\n  signal.raise_signal(2)\n"
        " except KeyboardInterrupt:\n  raise_exceptions(); os.write(2, b'x')\n"
        "time.sleep(2)"
    )
    assert as_process(code) == (0, "xxx")


@pytest.mark.parametrize(
    "code",
    [
        "class C: pass\nc = C(); weakref.finalize(c, signal.raise_signal, 2)",
        "class C:\n def __del__(self): signal.raise_signal(2)\nc = C()",
    ],
)
def test_a_signal_in_a_finalizer_is_not_lost(code):
    rest = "\ntry:\n del c; time.sleep(60)\nexcept KeyboardInterrupt:\n os._exit(7)"
    assert as_process(code + rest) == (7, "")


def test_nohup_is_respected():
    line = f"trap '' HUP; exec {sys.executable} -c '{{}}'"
    code = "import os; from vidcomp.cli.signals import *; end_at_once(); raise_exceptions(); os.kill(os.getpid(), 1)"
    assert subprocess.run(["bash", "-c", line.format(code)]).returncode == 0


def test_errors_about_any_name_in_any_locale(tmp_path):
    plain = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    name = os.fsencode(tmp_path) + "/é".encode() + b"\xff\x1b.mp4"
    done = subprocess.run([*command("frames"), name], capture_output=True, env=plain)
    assert (done.returncode, done.stdout) == (3, b"")
    assert done.stderr.startswith(b"error: no such file: ") and b"\x1b" not in done.stderr


LEAN = {
    "help": (["--help"], 0),
    "help of a command": (["ask", "--help"], 0),
    "methods": (["methods"], 0),
    "a method": (["methods", "holitom"], 0),
    "schedules": (["ask", "--inner", "help"], 0),
    "models": (["models"], 0),
    "models as JSON": (["models", "--json"], 0),
    "models for a memory": (["models", "--for", "8GB"], 0),
    "probe": (["probe", "CLIP", "--json"], 0),
    "frames": (["frames", "CLIP"], 0),
    "frames of a model": (["frames", "CLIP", "--model", "qwen3-vl-8b", "--sample", "model"], 0),
    "wrong method": (["ask", "CLIP", "what?", "--method", "holitm"], 2),
    "wrong parameter": (["ask", "CLIP", "what?", "--method", "holitom:tao=1"], 2),
    "wrong schedule": (["ask", "CLIP", "what?", "--inner", "fastw"], 2),
    "wrong merger": (["report", "CLIP", "--encoder", "tme"], 2),
    "missing file": (["ask", "/nowhere.mp4", "what?"], 3),
    "folder": (["ask", "/", "what?"], 3),
    "empty question": (["ask", "CLIP", " "], 2),
    "text": (["ask", __file__, "what?"], 3),
    "batch of nothing": (["caption", "/nowhere", "-o", "x.parquet"], 2),
    "missing file of a bench": (["bench", "ask", "/nowhere.mp4"], 3),
}


@pytest.mark.parametrize("kind", LEAN)
def test_no_torch_is_loaded_without_need(clip, kind):
    args, status = LEAN[kind]
    code = (
        "import sys; from vidcomp.cli.app import run; status = run(sys.argv[1:]);"
        "sys.exit(99 if 'torch' in sys.modules or 'transformers' in sys.modules else status)"
    )
    line = [sys.executable, "-c", code, *(str(clip) if arg == "CLIP" else arg for arg in args)]
    assert subprocess.run(line, capture_output=True).returncode == status
