"""The command line as people and scripts meet it: data on stdout, words on stderr, documented exit statuses."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from clips import make_clip, read_numbers

from vidcomp.batch.discover import find_videos
from vidcomp.batch.journal import Journal
from vidcomp.cli.app import run
from vidcomp.errors import InputError
from vidcomp.video import Sampling, read_frames
from vidcomp.video.probe import probe

ROOT = Path(__file__).resolve().parents[1]
QUESTION = "what happens at the end?"
SHORT = ["--max-new-tokens", "3"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return make_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", frames=30)


@pytest.fixture
def cli(capfd):
    """Run a command line in this process: exit status, stdout, stderr."""

    def call(*args):
        capfd.readouterr()
        status = run([str(arg) for arg in args])
        captured = capfd.readouterr()
        return status, captured.out, captured.err

    return call


def command(*args):
    return [sys.executable, "-m", "vidcomp", *map(str, args)]


# -- answers


def test_an_answer_is_the_only_thing_on_stdout(cli, clip):
    status, out, err = cli("ask", clip, QUESTION, *SHORT)
    assert status == 0
    assert out.endswith("\n")
    assert len(out.splitlines()) <= 1
    assert "nano understands only its own little world" in err
    assert "visual tokens" in err


def test_quiet_says_nothing_else(cli, clip):
    status, _, err = cli("ask", clip, QUESTION, "--quiet", *SHORT)
    assert (status, err) == (0, "")


def test_json_is_one_object(cli, clip):
    status, out, _ = cli("ask", clip, QUESTION, "--json", "--keep", "0.25", *SHORT)
    record = json.loads(out)
    assert status == 0
    assert record["schema"] == 1
    assert record["keep"]["requested"] == 0.25
    assert record["notes"]


def test_parameters_of_a_method_reach_it(cli, clip):
    _, out, _ = cli("ask", clip, QUESTION, "--json", "--method", "holitom:tau=0.99", "--inner", "none", *SHORT)
    record = json.loads(out)
    assert record["method"] == "holitom:tau=0.99"
    assert record["tokens"]["layer"] is None


def test_report_shows_every_stage_and_span(cli, clip):
    status, out, _ = cli("report", clip, QUESTION, *SHORT)
    assert status == 0
    for word in ("read", "encode", "compress", "prefill", "llm layer 3", "generate", "KV cache", "LLM FLOPs", "span"):
        assert word in out
    status, out, _ = cli("report", clip, QUESTION, "--json", *SHORT)
    record = json.loads(out)
    assert record["report"]["prefill"]["actual"]["flops"] < record["report"]["prefill"]["plain"]["flops"]
    assert sum(span["kept"] for span in record["report"]["spans"]) == record["tokens"]["kept"]


def test_methods_and_doctor(cli):
    status, out, _ = cli("methods")
    assert status == 0
    assert all(word in out for word in ("--method", "--inner", "--encoder", "divprune", "pyramiddrop", "own reading"))
    status, out, _ = cli("methods", "holitom")
    assert status == 0 and "2505.21334" in out and "tau=null" not in out and "contextual=0.0" in out
    listed = json.loads(cli("methods", "--json")[1])
    assert {"holitom", "none", "random", "uniform"} <= {info["name"] for info in listed}
    aware = {info["name"] for info in listed if info["question_aware"] and info["stage"] == "outer"}
    assert {"mmtok", "longvu"} <= aware and "holitom" not in aware
    status, _, err = cli("methods", "holitm")
    assert status == 2 and "did you mean 'holitom'?" in err
    status, out, _ = cli("doctor", "--json")
    assert status == 0
    assert json.loads(out)["models"]["nano"].endswith("MiB")
    assert "decord" in cli("doctor")[1]


@pytest.mark.parametrize(
    ("option", "name"), [("--method", "gleanvid"), ("--inner", "fastv"), ("--encoder", "earlytom")]
)
def test_help_in_place_of_a_name_lists_the_names(cli, option, name):
    status, out, _ = cli("ask", option, "help")
    assert status == 0 and name in out


def test_the_page_of_methods_is_fresh(cli):
    page = Path(__file__).parent.parent / "docs" / "methods.md"
    assert cli("methods", "--markdown")[1] == page.read_text(), "vidcomp methods --markdown > docs/methods.md"


def test_benches_print_a_verdict(cli, clip):
    status, out, _ = cli("bench", "ask", clip, QUESTION, "--repeats", "1", *SHORT)
    assert status == 0
    assert "verdict:" in out
    status, out, _ = cli("bench", "compress", "--shape", "4x16x32", "--repeats", "3")
    assert status == 0
    assert "read passes" in out
    assert cli("bench", "compress", "--shape", "4x16")[0] == 2


# -- wrong input: each its own message, one line what, one line why, one line what to try


def hostile(tmp_path, name):
    path = tmp_path / f"{name}.mp4"
    if name == "directory":
        path.mkdir()
    elif name == "empty":
        path.touch()
    elif name == "text":
        path.write_text("this is no video\n" * 50)
    elif name == "noise":
        path.write_bytes(bytes(range(256)) * 64)
    elif name == "fifo":
        os.mkfifo(path)
    elif name == "loop":
        path.symlink_to(path)
    return path


@pytest.mark.parametrize("name", ["missing", "directory", "empty", "text", "noise", "fifo", "loop"])
def test_unreadable_input_is_status_3(cli, tmp_path, name):
    status, out, err = cli("ask", hostile(tmp_path, name), QUESTION, "--quiet")
    assert status == 3
    assert out == ""
    lines = err.strip().splitlines()
    assert lines[0].startswith("error: ")
    assert len(lines) <= 3
    assert "Traceback" not in err


def test_each_kind_of_bad_input_has_its_own_message(cli, tmp_path):
    names = ["missing", "directory", "empty", "text", "fifo", "loop"]
    errors = [cli("ask", hostile(tmp_path, name), QUESTION, "--quiet")[2].replace(name, "") for name in names]
    assert len(set(errors)) == len(names)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--keep", "0"], "above 0"),
        (["--keep", "1.5"], "at most 1"),
        (["--keep", "lots"], "--keep"),
        (["--method", "hollitom"], "holitom"),
        (["--method", "holitom:tao=1"], "tao"),
        (["--method", "holitom:tau"], "name:key=value"),
        (["--method", "holitom:beta=7"], "beta"),
        (["--inner", "fastw"], "fastw"),
        (["--inner", "holitom:r=2"], "r must be"),
        (["--frames", "0"], "at least 1"),
        (["--frames", "4", "--fps", "2"], "--fps"),
        (["--segmenter", "sift"], "tower, dinov2, clip, luma"),
        (["--device", "tpu"], "auto, cpu"),
        (["--dtype", "int3"], "bfloat16"),
        (["--attn", "flex"], "sdpa"),
        (["--positions", "random"], "compact"),
        (["--max-new-tokens", "-1"], "at least 1"),
        (["--kep", "0.1"], "--kep"),
    ],
)
def test_wrong_usage_is_status_2_and_nothing_starts(cli, clip, args, words):
    status, out, err = cli("ask", clip, QUESTION, *args)
    assert status == 2
    assert out == ""
    assert words in err
    assert "Traceback" not in err


def test_no_command_shows_help(cli):
    status, out, err = cli()
    assert status == 2
    assert "caption" in out + err
    assert "error" not in err


def test_an_empty_question_and_an_unknown_command(cli, clip):
    assert cli("ask", clip, " ")[0] == 2
    assert cli("ask", clip, "what is <video>?")[0] == 0  # read as text
    status, _, err = cli("aks")
    assert status == 2
    assert "ask" in err


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("nanno", "no model named"),
        ("n" * 300, "no model named"),
        ("who/knows", "not in the cache, and offline"),
        ("FOLDER", "no config.json"),
        ("OTHER", "family 'bert'"),
    ],
)
def test_a_missing_model_is_status_4(cli, clip, tmp_path, model, words):
    if model == "OTHER":
        (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    name = tmp_path if model in ("FOLDER", "OTHER") else model
    status, _, err = cli("ask", clip, QUESTION, "--model", name, "--offline")
    assert status == 4
    assert words in err
    assert "try: " in err


def test_a_layer_that_the_model_lacks_is_wrong_usage(cli, clip):
    for inner in ("holitom:k=18", "holitom:k=1.5", "auto:zzz=2"):
        status, out, err = cli("ask", clip, QUESTION, "--inner", inner)
        assert (status, out) == (2, "")
        assert "--inner" in err or "inner schedule" in err


def test_errors_are_json_where_json_was_asked_for(cli, tmp_path):
    status, out, _ = cli("ask", tmp_path / "nothing.mp4", QUESTION, "--json")
    record = json.loads(out)
    assert status == 3
    assert (record["status"], record["error"]["code"]) == ("failed", "missing")


def test_a_bug_is_status_1_and_its_traceback_is_saved(cli, clip, monkeypatch):
    monkeypatch.setattr("vidcomp.pipeline.VideoLM.ask", lambda *_, **__: 1 / 0)
    status, _, err = cli("ask", clip, QUESTION, "--quiet")
    assert status == 1
    assert "ZeroDivisionError" in err
    saved = Path(err.strip().splitlines()[-1].split()[-1])
    assert "Traceback" in saved.read_text()
    saved.unlink()
    assert "Traceback" in cli("ask", clip, QUESTION, "--debug")[2]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        ImportError("libtorch.so: failed to map segment from shared object"),
        InputError("cannot read it", why="pyav: OSError: [Errno 12] Cannot allocate memory"),
    ],
)
def test_no_room_for_a_library_is_no_bug_and_no_damaged_file(cli, clip, monkeypatch, error):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr("vidcomp.video.read_frames", refuse)
    status, out, err = cli("frames", clip, "--json")
    assert (status, json.loads(out)["error"]["code"]) == (6, "out_of_memory")
    assert err.startswith("error: not enough memory")


def test_memory_that_only_a_damaged_header_asks_for_is_no_shortage(cli, clip, monkeypatch):
    def refuse(*_, **__):
        raise InputError("cannot read it", why="pyav: cannot open the file (Cannot allocate memory)")

    monkeypatch.setattr("vidcomp.video.read_frames", refuse)
    assert cli("frames", clip)[0] == 3


@pytest.mark.parametrize("name", ["ask", "frames"])
def test_a_current_folder_that_is_gone_is_told(clip, tmp_path, name):
    gone = tmp_path / "gone"
    gone.mkdir()
    script = f'rmdir "$PWD" && exec {sys.executable} -m vidcomp {name} {clip} hello'
    done = subprocess.run(
        ["sh", "-c", script.removesuffix(" hello") if name == "frames" else script],
        cwd=gone, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: the current folder is gone")


def test_a_limit_of_file_sizes_is_named(clip):
    script = f"ulimit -f 10; exec {sys.executable} -m vidcomp frames {clip}"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 3 and "File too large" in done.stderr
    assert done.stderr.endswith("try: ask for fewer frames or set a smaller max_side\n")


def test_out_of_memory_is_status_6(cli, clip, monkeypatch):
    def refuse(*_, **__):
        raise MemoryError("no room")

    from transformers import GenerationMixin

    monkeypatch.setattr(GenerationMixin, "generate", refuse)
    status, _, err = cli("ask", clip, QUESTION)
    assert status == 6
    assert "--frames" in err


# -- paths that the system does not let us use

LONG = "n" * 300


def unprivileged(*args):
    """A command line without root's right to read everything."""
    if os.geteuid():
        return command(*args)
    if not shutil.which("setpriv"):
        pytest.skip("root reads everything, and there is no setpriv")
    dropped = "-dac_override,-dac_read_search"
    return ["setpriv", "--bounding-set", dropped, "--inh-caps=-all", *command(*args)]


@pytest.mark.parametrize(
    "args",
    [["ask", "CLIP", "what?"], ["chat", "CLIP"], ["caption", "CLIP"], ["report", "CLIP"], ["bench", "ask", "CLIP"]],
)
def test_a_file_that_may_not_be_read_is_no_wrong_usage(cli, clip, monkeypatch, args):
    """The command-line library's own look at it would end a whole batch; what comes first is the wrong method."""
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    status, _, err = cli(*(clip if arg == "CLIP" else arg for arg in args), "--method", "hollitom")
    assert status == 2
    assert "did you mean 'holitom'?" in err


def test_files_without_permission_and_long_names_are_failed_records(clip, tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir()
    secret = tmp_path / "secret.mp4"
    for path in (secret, locked / "inside.mp4"):
        path.write_bytes(clip.read_bytes())
    secret.chmod(0)
    locked.chmod(0)
    words = unprivileged("probe", locked / "inside.mp4", secret, tmp_path / LONG, clip, "--json")
    folder = unprivileged("probe", tmp_path, "--json")
    alone = unprivileged("frames", secret, "--json")
    written = unprivileged("frames", clip, "-o", locked / "new", "--json")
    try:
        done, folder, alone, written = (
            subprocess.run(line, capture_output=True, text=True) for line in (words, folder, alone, written)
        )
    finally:
        locked.chmod(0o700)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    codes = [record["error"]["code"] if "error" in record else record["status"] for record in found]
    assert (done.returncode, codes) == (5, ["no_permission", "no_permission", "missing", "ok"])
    inside = {
        Path(record["path"]).name: record.get("error", {}).get("code")
        for record in map(json.loads, folder.stdout.splitlines())
    }
    assert inside == {"locked": "no_permission", "secret.mp4": "no_permission"}
    assert (alone.returncode, json.loads(alone.stdout)["error"]["code"]) == (3, "no_permission")
    assert (written.returncode, json.loads(written.stdout)["error"]["code"]) == (3, "unwritable")


def test_long_names(cli, clip, tmp_path):
    status, out, err = cli("frames", clip, "-o", tmp_path / LONG)
    assert (status, out) == (3, "")
    assert "File name too long" in err
    assert find_videos([tmp_path / LONG, clip]) == [tmp_path / LONG, clip]


# -- probe


def test_a_picture_of_unknown_size_has_no_price_and_the_rest_goes_on(cli, clip, tmp_path, monkeypatch):
    unknown = tmp_path / "unknown.mp4"
    unknown.write_bytes(clip.read_bytes())

    def look(path, *args):
        found = probe(path, *args)
        return replace(found, width=0) if path == unknown else found

    monkeypatch.setattr("vidcomp.video.probe.probe", look)
    status, out, _ = cli("probe", unknown, clip, "--json")
    first, second = map(json.loads, out.splitlines())
    assert (status, first["status"], first["models"]) == (0, "ok", None)
    assert second["models"]
    status, out, _ = cli("probe", unknown, clip)
    assert status == 0
    assert "size not known" in out and "cost        -" in out and "qwen3-vl-8b" in out


# -- batches


@pytest.fixture
def folder(clip, tmp_path):
    (tmp_path / "in" / "deeper").mkdir(parents=True)
    for name in ("a.mp4", "deeper/b c.mp4", "deeper/new\nline.mp4"):
        (tmp_path / "in" / name).write_bytes(clip.read_bytes())
    (tmp_path / "in" / "broken.mp4").write_text("no video at all")
    (tmp_path / "in" / "notes.txt").write_text("not a video")
    (tmp_path / "in" / "deeper" / "up").symlink_to(tmp_path / "in")
    return tmp_path / "in"


def records(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_batch_records_failures_and_goes_on(cli, folder, tmp_path):
    output = tmp_path / "captions.jsonl"
    status, out, err = cli("caption", folder, "-o", output, *SHORT)
    assert (status, out) == (5, "")
    assert "failed  " in err
    written = records(output)
    assert [record["status"] for record in written] == ["ok", "failed", "ok", "ok"]
    good, bad = written[0], written[1]
    assert isinstance(good["caption"], str)
    assert good["schema"] == bad["schema"] == 1
    assert "answer" not in good
    assert bad["error"]["code"]
    assert bad["video"]["path"].endswith("broken.mp4")


def test_a_second_run_skips_what_is_done(cli, folder, tmp_path):
    output = tmp_path / "captions.jsonl"
    cli("caption", folder, "-o", output, *SHORT)
    before = output.read_bytes()
    status, _, err = cli("caption", folder, "-o", output, *SHORT)
    assert status == 5
    assert "0 done, 3 done before, 1 failed" in err
    assert output.read_bytes() == before
    (folder / "broken.mp4").write_bytes((folder / "a.mp4").read_bytes())
    status, _, err = cli("caption", folder, "-o", output, *SHORT)
    assert status == 0
    assert "1 done, 3 done before, 0 failed" in err


def test_other_settings_are_other_work(cli, folder, tmp_path):
    output = tmp_path / "captions.jsonl"
    cli("caption", folder / "a.mp4", "-o", output, *SHORT)
    cli("caption", folder / "a.mp4", "-o", output, "--keep", "0.5", *SHORT)
    assert [record["keep"]["requested"] for record in records(output)] == [0.1, 0.5]


def test_a_torn_last_line_is_cut_and_done_again(cli, folder, tmp_path):
    output = tmp_path / "captions.jsonl"
    cli("caption", folder / "a.mp4", "-o", output, *SHORT)
    whole = output.read_bytes()
    output.write_bytes(whole + whole[: len(whole) // 2])
    status, _, _ = cli("caption", folder / "a.mp4", folder / "deeper", "-o", output, *SHORT)
    assert status == 0
    assert len(records(output)) == 3


def test_where_room_runs_out_whole_lines_remain(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(InputError, match=r"cannot write .*") as caught, Journal(tmp_path / "out.jsonl") as journal:
            for number in range(9):
                journal.append({"number": number}, {"status": "ok", "caption": "a" * 300})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.code == "unwritable"
    assert [record["job"]["number"] for record in records(tmp_path / "out.jsonl")] == [0, 1]


@pytest.mark.parametrize("content", [b"dear diary\n", b"dear diary", b"\x00\x00ftyp\n\xff\xfe", b"{}\n"])
def test_a_foreign_file_is_not_touched(cli, folder, tmp_path, content):
    output = tmp_path / "diary.txt"
    output.write_bytes(content)
    assert cli("caption", folder, "-o", output)[0] == 3
    assert output.read_bytes() == content


def test_a_device_is_no_results_file(cli, folder):
    assert cli("caption", folder, "-o", "/dev/full")[0] == 3


def test_captions_without_a_file_go_to_stdout(cli, folder):
    status, out, _ = cli("caption", folder / "a.mp4", *SHORT)
    assert status == 0
    assert out.startswith(f"{folder / 'a.mp4'}: ")
    status, out, _ = cli("caption", folder / "a.mp4", "--json", *SHORT)
    assert json.loads(out)["status"] == "ok"


def test_control_characters_of_names_do_not_reach_the_terminal(cli, clip, tmp_path):
    (tmp_path / "a\x1b[31m.mp4").write_bytes(clip.read_bytes())
    (tmp_path / "b\x1b[31m.mp4").write_text("no video")
    status, out, err = cli("caption", tmp_path, *SHORT)
    assert (status, "\x1b" in out + err) == (5, False)
    assert r"a\x1b[31m.mp4: " in out
    assert "\x1b" not in cli("caption", tmp_path / "b\x1b[31m.mp4", "-o", tmp_path / "b\x1b[31m.mp4")[2]


def test_nothing_to_caption(cli, tmp_path):
    assert cli("caption", tmp_path)[0] == 3
    status, _, err = cli("caption", tmp_path / "nowhere.mp4")
    assert status == 5
    assert "no such file" in err


# -- as a process


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
        os.close(write)
        time.sleep(0.5)  # the pipe is full by then; were it not, all would pass the same
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


@pytest.mark.parametrize(("kind", "status", "seconds"), [(signal.SIGINT, 130, 2), (signal.SIGTERM, 143, 5)])
def test_signals_end_a_batch_and_keep_finished_lines(clip, tmp_path, kind, status, seconds):
    for number in range(30):
        (tmp_path / f"{number:02}.mp4").write_bytes(clip.read_bytes())
    output = tmp_path / "out.jsonl"
    work = subprocess.Popen(command("caption", tmp_path, "-o", output, *SHORT), stderr=subprocess.PIPE, text=True)
    give_up = time.monotonic() + 90
    while not (output.exists() and output.read_text().count("\n") >= 2) and time.monotonic() < give_up:
        time.sleep(0.05)
    work.send_signal(kind)
    _, err = work.communicate(timeout=seconds + 20)
    assert work.returncode == status
    assert "Traceback" not in err
    assert ("stopped" in err) == (kind == signal.SIGINT)
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
    give_up = time.monotonic() + 60
    while not any(tmp_path.glob(".frames-*/*")) and time.monotonic() < give_up:
        time.sleep(0.01)
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    os.kill(pid, kind)
    assert script.communicate(timeout=30)[0].split() == [str(status)]
    assert sorted(os.listdir(tmp_path)) == ["long.mp4"]
    assert not any(Path(f"/proc/{child}").exists() for child in children)


def as_process(code):
    """Run Python code that is hit by signals: exit status and what it said on stderr."""
    begin = "import os, signal, time, weakref; from vidcomp.cli.signals import *; raise_exceptions()\n"
    line = [sys.executable, "-c", begin + code]
    done = subprocess.run(line, capture_output=True, text=True, timeout=30, preexec_fn=under_a_terminal)
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


def test_looking_at_a_file_loads_no_torch(clip):
    code = (
        "import sys; from vidcomp.cli.app import run; status = run(sys.argv[1:]);"
        "sys.exit('torch' in sys.modules or status)"
    )
    for args in (["probe", str(clip), "--json"], ["--help"]):
        assert subprocess.run([sys.executable, "-c", code, *args], capture_output=True).returncode == 0


# -- frames


def test_frames_lists_what_ask_reads(cli, clip):
    status, out, _ = cli("frames", clip, "--frames", 4, "--json")
    found = json.loads(out)
    assert (status, found["status"]) == (0, "ok")
    assert found["frames"]["indices"] == [0, 9, 19, 29]
    assert found["frames"]["exact_times"] == ["0", "9/25", "19/25", "29/25"]
    asked = json.loads(cli("ask", clip, QUESTION, "--frames", 4, "--json", *SHORT)[1])
    assert {**asked["frames"], **found["frames"]} == asked["frames"]
    assert asked["video"] == found["video"]
    assert cli("frames", clip, "--frames", 2)[1] == "0\t0.000000\t0\n29\t1.160000\t29/25\n"


def test_frames_are_written_whole_or_not_at_all(cli, clip, tmp_path):
    import av

    folder = tmp_path / "new" / "pictures"
    status, out, _ = cli("frames", clip, "--frames", 3, "-o", folder, "--json")
    files = json.loads(out)["files"]
    assert (status, files) == (0, [str(folder / name) for name in sorted(os.listdir(folder))])
    pictures = [next(av.open(file).decode(video=0)).to_ndarray(format="rgb24") for file in files]
    assert np.array_equal(pictures, read_frames(clip, Sampling(3)).pixels)
    assert read_numbers(np.stack(pictures)) == [0, 14, 29]
    status, _, err = cli("frames", clip, "-o", folder)
    assert status == 2
    assert "exists" in err
    (tmp_path / "file").touch()
    assert cli("frames", clip, "-o", tmp_path / "file" / "inside")[0] == 3
    assert sorted(os.listdir(tmp_path)) == ["file", "new"]
    assert os.listdir(tmp_path / "new") == ["pictures"]
