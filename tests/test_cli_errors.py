# SPDX-License-Identifier: Apache-2.0
"""Wrong usage, bad input, missing models: each its own message and its documented exit status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import QUESTION, ROOT

from vidcomp.errors import InputError


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
        (["--keep", "10"], "did you mean --keep 0.1?"),
        (["--keep", "10%"], "did you mean 0.1?"),
        (["--method", "holitom+fastv"], "--method holitom --inner fastv"),
        (["--method", "holitom:tau=abc"], "tau must be a number"),
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
        ("nanno", "did you mean --model nano?"),
        ("qwen2.5-vl-8b", "did you mean --model qwen2.5-vl-"),
        ("Qwen3-VL-8B-Instruct", "did you mean --model Qwen/Qwen3-VL-8B-Instruct?"),
        ("qwen2.5-vl-7b", "the weights of Qwen/Qwen2.5-VL-7B-Instruct are not available"),
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
    monkeypatch.setattr("vidcomp.engine.run.VideoLM.ask", lambda *_, **__: 1 / 0)
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
