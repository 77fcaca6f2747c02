# SPDX-License-Identifier: Apache-2.0
"""vidcomp warm: the same words, records and exit statuses as without it, and nobody else is let in."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys

import pytest
from command_line import QUESTION, SHORT, command, records
from waiting import PATIENCE_SECONDS, until

from vidcomp.cli.warm import client, messages, place, served
from vidcomp.cli.warm.kept import Kept
from vidcomp.cli.warm.surroundings import differing, surroundings
from vidcomp.config import ModelConfig
from vidcomp.errors import UsageError

pytestmark = pytest.mark.skipif(not messages.supported(), reason="this system does not tell who connects")

ENVIRONMENT: dict[str, dict[str, str]] = {}  # of the commands; libraries that tests load set variables in this process
SECONDS = re.compile(r'("seconds": |"time_to_first_token": |"total": |, )[\d.]+( s$)?', re.MULTILINE)


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """A runtime folder of this module's processes."""
    folder = tmp_path_factory.mktemp("runtime")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(folder))
        patch.setitem(ENVIRONMENT, "now", dict(os.environ))
        around = surroundings()
        patch.setattr(client, "surroundings", lambda: around)
        yield folder / "vidcomp"


@pytest.fixture(scope="module")
def warm(room):
    """The socket of a process that keeps the embedded model."""
    process("warm", "--quiet", check=True)
    yield str(room / place.SOCKET)
    process("warm", "--stop")


def process(*args, check=False, **settings):
    return subprocess.run(
        command(*args), capture_output=True, text=True, check=check, env=ENVIRONMENT["now"], **settings
    )


def status():
    return client.told(place.standing_socket(), "status")


@pytest.fixture
def batch(clip, tmp_path):
    """Start a long batch in the warm process: the process of its command, and its results file."""
    videos, output = tmp_path / "videos", tmp_path / "out.jsonl"
    videos.mkdir()
    for number in range(300):
        (videos / f"{number:03}.mp4").write_bytes(clip.read_bytes())

    def begun():
        line = command("caption", videos, "-o", output, *SHORT)
        work = subprocess.Popen(line, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT["now"])
        until(lambda: output.exists() and output.read_text().count("\n") >= 3)
        return work, output

    return begun


SAME = {
    "an answer": ["ask", "clip.mp4", QUESTION, *SHORT],
    "a record": ["ask", "./clip.mp4", QUESTION, "--json", *SHORT],
    "several": ["ask", "clip.mp4", QUESTION, "--also", "why?", *SHORT],
    "drawn": ["ask", "clip.mp4", QUESTION, "--json", "--temperature", "1", "--seed", "3", "--method", "fastvid"],
    "a report": ["report", "clip.mp4", "--json", *SHORT],
    "captions": ["caption", "clip.mp4", "clip.mp4", *SHORT],
    "quiet": ["ask", "clip.mp4", QUESTION, "--quiet", *SHORT],
    "no file": ["ask", "nowhere.mp4", QUESTION, "--json"],
    "no method": ["report", "clip.mp4", "--method", "holitm"],
    "no question": ["ask", "clip.mp4", " "],
}


@pytest.mark.parametrize("kind", SAME)
def test_words_records_and_statuses_are_the_same(warm, cli, clip, monkeypatch, kind):
    monkeypatch.chdir(clip.parent)
    before = status()["commands"]
    done = process(*SAME[kind])
    alone = cli(*SAME[kind])
    assert (done.returncode, *map(untimed, (done.stdout, done.stderr))) == (alone[0], *map(untimed, alone[1:]))
    assert status()["commands"] == before + 1, done.stderr


def untimed(text):
    return SECONDS.sub("", text)


def test_the_environment_of_a_command_is_its_own(warm, clip, tmp_path):
    """A page is written into the folder of the client, with its mask."""
    done = process("report", clip, "--html", "page.html", "--quiet", *SHORT, cwd=tmp_path, umask=0o077)
    assert done.returncode == 0
    assert stat.S_IMODE((tmp_path / "page.html").stat().st_mode) == 0o600


def test_a_client_loads_nothing_heavy(warm, clip):
    line = [sys.executable, "-X", "importtime", "-m", "vidcomp", "ask", str(clip), QUESTION, *SHORT]
    loaded = subprocess.run(line, capture_output=True, text=True, check=True, env=ENVIRONMENT["now"]).stderr
    names = {row.rpartition("|")[2].strip() for row in loaded.splitlines() if row.startswith("import time:")}
    assert "vidcomp.cli.warm.client" in names
    assert not names & {"torch", "transformers", "numpy", "typer", "rich", "vidcomp.config", "subprocess", "pathlib"}


def test_without_a_socket_nothing_is_tried(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert served(["ask", "clip.mp4", "what?"]) is None


def test_no_warm_and_other_commands_stay_here(warm):
    assert served(["ask", "clip.mp4", "what?", "--no-warm"]) is None
    assert served(["frames", "clip.mp4"]) is None
    assert served([]) is None


@pytest.mark.parametrize(("to", "expected"), [("| true; exit ${PIPESTATUS[0]}", 0), (">/dev/full", 3)])
def test_output_that_is_lost_ends_as_without(warm, clip, to, expected):
    line = " ".join(command("ask", clip, "'first?'", "--json", *SHORT)) + " " + to
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=ENVIRONMENT["now"])
    assert (done.returncode, "Traceback" in done.stderr) == (expected, False)
    assert status()["running"]


def test_ctrl_c_ends_the_command_and_not_the_process(warm, batch):
    pid = status()["pid"]
    work, output = batch()
    work.send_signal(signal.SIGINT)
    _, err = work.communicate(timeout=PATIENCE_SECONDS)
    assert work.returncode == 130
    assert "saved, the same command goes on" in err and "Traceback" not in err
    assert len(records(output)) >= 2
    until(lambda: not status()["busy"])
    assert status()["pid"] == pid


def test_a_command_ends_when_its_client_is_gone_and_others_are_not_kept_waiting(warm, batch, clip, monkeypatch):
    work, output = batch()
    monkeypatch.setattr(client, "TURN_SECONDS", 0.2)
    channel = messages.connected(warm, 5.0)
    assert "busy" in client._refused(channel, ["ask", str(clip), QUESTION])
    channel.close()
    work.kill()
    work.communicate()
    until(lambda: not status()["busy"])
    assert len(records(output)) < 300


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGHUP])
def test_other_signals_give_their_status(warm, batch, kind):
    work, _ = batch()
    work.send_signal(kind)
    _, err = work.communicate(timeout=PATIENCE_SECONDS)
    assert (work.returncode, "Traceback" in err) == (128 + kind, False)
    assert status()["running"]


def test_a_process_that_does_not_answer_is_left_alone(warm, clip, monkeypatch):
    monkeypatch.setattr(client, "GREETING_SECONDS", 0.2)
    pid = status()["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        channel = messages.connected(warm, 1.0)
        assert client._refused(channel, ["ask", str(clip), QUESTION]) == "vidcomp warm does not answer"
        channel.close()
    finally:
        os.kill(pid, signal.SIGCONT)
    assert status()["running"]


def test_another_one_with_other_settings_is_refused_and_the_same_is_told(warm):
    done = process("warm", "--dtype", "bfloat16")
    assert done.returncode == 2 and done.stderr.startswith("error: vidcomp warm runs already")
    assert "nano is warm" in process("warm").stdout
    assert json.loads(process("warm", "--status", "--json").stdout)["model"]["model"] == "nano"


def somebody_else_is_let_in(path):
    child = os.fork()
    if not child:
        os.setuid(65534)
        os._exit(not isinstance(failure_to_connect(path), PermissionError))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def failure_to_connect(path):
    try:
        socket.socket(socket.AF_UNIX).connect(path)
    except OSError as error:
        return error


def test_only_its_user_may_connect(warm, monkeypatch):
    assert stat.S_IMODE(os.stat(os.path.dirname(warm)).st_mode) == 0o700
    assert stat.S_IMODE(os.stat(warm).st_mode) == 0o600
    if os.getuid() == 0:
        assert somebody_else_is_let_in(warm) == 0
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(PermissionError, match="another user"):
        messages.connected(warm, 1.0)


def test_a_killed_process_is_one_clear_error_and_then_as_if_none_had_been(warm, batch, clip):
    pid = status()["pid"]
    work, _ = batch()
    os.kill(pid, signal.SIGKILL)
    _, err = work.communicate(timeout=PATIENCE_SECONDS)
    lines = [line for line in err.splitlines() if not line.startswith(("note", "captioned"))]
    assert work.returncode == 4
    assert lines[0] == "error: vidcomp warm ended in the middle of the command" and len(lines) == 3
    assert os.path.exists(warm)  # left behind
    assert client.run_there(["ask", str(clip), QUESTION], warm) is None
    assert process("warm", "--status").stdout == process("warm", "--stop").stdout == "nothing is warm\n"


SERVER = """
import os, sys, json
from vidcomp.cli.warm.server import _Server
from vidcomp.cli.warm.kept import Kept
from vidcomp.config import ModelConfig
server = _Server(sys.argv[1], Kept(ModelConfig(), "/", ()), {}, float(sys.argv[2]))
server.run(); server.close()
"""


def test_it_ends_when_idle_and_replaces_a_socket_that_was_left_behind(tmp_path):
    path = tmp_path / place.SOCKET
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()
    assert path.exists()
    done = subprocess.run([sys.executable, "-c", SERVER, tmp_path, "0.2"], timeout=PATIENCE_SECONDS)
    assert (done.returncode, path.exists()) == (0, False)


def test_there_is_one_at_a_time(tmp_path):
    from vidcomp.cli.warm.server import _locked

    first = _locked(str(tmp_path))
    with pytest.raises(UsageError, match="runs already, or is just starting"):
        _locked(str(tmp_path))
    first.close()
    _locked(str(tmp_path)).close()


def test_a_folder_that_others_may_enter_is_not_trusted(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    folder = tmp_path / "vidcomp"
    folder.mkdir(mode=0o755)
    end = socket.socket(socket.AF_UNIX)
    end.bind(str(folder / place.SOCKET))
    assert place.standing_socket() is None
    with pytest.raises(PermissionError, match="you alone"):
        place.made_folder()
    folder.chmod(0o700)
    assert place.standing_socket() == str(folder / place.SOCKET)
    end.close()


REFUSED = {
    "another model": (["--model", "llava-hf/llava-onevision-qwen2-7b-ov-hf"], "other model settings"),
    "another format": (["--dtype", "bfloat16"], "other model settings"),
    "verbose": (["--verbose"], ""),
    "help": (["--method", "help"], ""),
    "wrong usage": (["--nonsense"], ""),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_command_that_needs_something_else_is_refused(kind):
    words, why = REFUSED[kind]
    found = Kept.now(ModelConfig()).refusal(["ask", "clip.mp4", "what?", *words], "/")
    assert found is not None and (why in found if why else found == "")


def test_commands_that_fit_are_taken():
    kept = Kept.now(ModelConfig())
    assert kept.refusal(["ask", "clip.mp4", "what?", "--offline", "--keep", "0.3"], "/") is None
    assert kept.refusal(["caption", "a", "b", "--workers", "2"], "/") == ""
    assert kept.refusal(["ask", "/dev/fd/63", "what?"], "/") == ""
    assert "have changed" in Kept(ModelConfig(), "/", ()).refusal(["ask", "clip.mp4", "what?"], "/")


def test_a_folder_of_a_model_is_known_by_where_it_lies_and_what_is_in_it(tmp_path, monkeypatch):
    for name in ("one", "other"):
        (tmp_path / name / "model").mkdir(parents=True)
        (tmp_path / name / "model" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path / "one")
    kept = Kept.now(ModelConfig(model="model"))
    line = ["ask", "clip.mp4", "what?", "--model", "model"]
    assert kept.refusal(line, str(tmp_path / "one")) is None
    assert "other model settings" in kept.refusal(line, str(tmp_path / "other"))
    (tmp_path / "one" / "model" / "config.json").write_text('{"more": 1}')
    assert "have changed" in kept.refusal(line, str(tmp_path / "one"))


def test_what_a_library_reads_when_it_is_loaded_must_be_equal(monkeypatch):
    around = json.loads(json.dumps(surroundings()))
    monkeypatch.setenv("SOMETHING_ELSE", "1")
    assert differing(around, json.loads(json.dumps(surroundings()))) == ""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert differing(around, json.loads(json.dumps(surroundings()))) == "other environment variables"


def test_long_messages_and_files_pass_whole(tmp_path):
    ours, theirs = (messages.Channel(end) for end in socket.socketpair())
    (tmp_path / "file").write_text("content")
    with open(tmp_path / "file") as file:
        ours.send({"name": "\udcff" * 10}, [file.fileno()])
    ours.send({"text": "x" * 20_000})
    assert theirs.receive(1.0) == {"name": "\udcff" * 10}
    assert theirs.receive(1.0) == {"text": "x" * 20_000}
    assert os.pread(theirs.descriptors[0], 99, 0) == b"content"
    with pytest.raises(TimeoutError):
        theirs.receive(0.01)
    ours.close()
    assert theirs.receive(1.0) is None
    theirs.close()


def test_a_wrong_option_is_told(capfd):
    for words, expected in ((["--idle", "0"], "--idle 0"), (["--stop", "--status"], "--stop together")):
        done = process("warm", *words)
        assert done.returncode == 2 and expected in done.stderr
