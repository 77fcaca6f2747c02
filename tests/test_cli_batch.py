# SPDX-License-Identifier: Apache-2.0
"""caption: one record per video, whatever becomes of it; a second run does what is left."""

from __future__ import annotations

import json
import resource
import subprocess
import sys

import pytest
from clips import make_clip
from command_line import SHORT, records

from vidcomp.batch.journal import Journal
from vidcomp.errors import InputError, ModelError, NotApplied, OutOfMemory, UsageError


@pytest.fixture
def folder(clip, tmp_path):
    (tmp_path / "in" / "deeper").mkdir(parents=True)
    for name in ("a.mp4", "deeper/b c.mp4", "deeper/new\nline.mp4"):
        (tmp_path / "in" / name).write_bytes(clip.read_bytes())
    (tmp_path / "in" / "broken.mp4").write_text("no video at all")
    (tmp_path / "in" / "notes.txt").write_text("not a video")
    (tmp_path / "in" / "deeper" / "up").symlink_to(tmp_path / "in")
    return tmp_path / "in"


def test_a_batch_records_failures_and_goes_on(cli, folder, tmp_path):
    output = tmp_path / "captions.jsonl"
    status, out, err = cli("caption", folder, "-o", output, *SHORT)
    assert (status, out) == (5, "")
    assert "failed  " in err
    written = records(output)
    assert [record["status"] for record in written] == ["ok", "failed", "ok", "ok"]
    good, bad = written[0], written[1]
    assert isinstance(good["caption"], str)
    assert good["schema"] == bad["schema"] == 2
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
@pytest.mark.parametrize(("name", "expected"), [("diary.jsonl", 3), ("diary", 3), ("diary.txt", 2), ("diary.srt", 2)])
def test_a_foreign_file_is_not_touched(cli, folder, tmp_path, content, name, expected):
    output = tmp_path / name
    output.write_bytes(content)
    status, _, err = cli("caption", folder, "-o", output)
    assert status == expected, err
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


LONG = UsageError("18438 positions, and the model was made for 1024", code="too_long")
TROUBLES = [
    LONG,
    OutOfMemory("no room"),
    NotApplied("nothing was reduced"),
    ModelError("a bad day"),
    ValueError("a bug"),
]


@pytest.mark.parametrize("trouble", TROUBLES, ids=lambda error: type(error).__name__)
def test_one_file_ends_no_batch(cli, folder, tmp_path, monkeypatch, trouble):
    from vidcomp.engine.run import VideoLM

    ask = VideoLM.ask

    def troubled(self, video, *args, **settings):
        if getattr(video, "info", None):  # decoded before its turn
            named = video.info.path.name
        else:
            named = video.name
        if named == "a.mp4":
            raise trouble
        return ask(self, video, *args, **settings)

    monkeypatch.setattr(VideoLM, "ask", troubled)
    output = tmp_path / "captions.jsonl"
    assert cli("caption", folder, "-o", output, *SHORT)[0] == 5
    first, *others = records(output)
    assert (first["status"], first["video"]["path"]) == ("failed", str(folder / "a.mp4"))
    assert first["error"]["code"] == getattr(trouble, "code", "internal")
    assert [record["status"] for record in others] == ["failed", "ok", "ok"]
    monkeypatch.undo()
    assert "1 done, 2 done before, 1 failed" in cli("caption", folder, "-o", output, "--retry-failed", *SHORT)[2]


def test_a_video_that_is_too_long_is_a_record_with_advice_that_helps(cli, clip, tmp_path):
    for name in "ac":
        (tmp_path / f"{name}.mp4").write_bytes(clip.read_bytes())
    make_clip(tmp_path / "b.mp4", frames=600)
    output = tmp_path / "out.jsonl"
    args = ["caption", tmp_path, "-o", output, "--fps", 25, "--keep", 1, *SHORT]
    assert cli(*args)[0] == 5
    written = records(output)
    assert [record["status"] for record in written] == ["ok", "failed", "ok"]
    error = written[1]["error"]
    assert error["code"] == "too_long" and "smaller --keep" not in error["hint"]
    frames = int(error["hint"].split()[1].rstrip(","))
    assert cli("ask", tmp_path / "b.mp4", "what?", "--frames", frames, "--keep", 1, *SHORT)[0] == 0


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--inner", "holitom:k=18"], "--inner"),
        (["--method", "holitom:beta=7"], "beta"),
        (["--segmenter", "dinov2", "--segmenter-model", "nowhere"], "no model named"),
    ],
)
def test_what_is_wrong_with_the_run_ends_it_before_the_first_file(cli, folder, tmp_path, args, words):
    output = tmp_path / "out.jsonl"
    status, _, err = cli("caption", folder, "-o", output, *args)
    assert status in (2, 4) and words in err
    assert not output.exists() or not output.read_bytes()


@pytest.mark.parametrize("other", [["--deadline", "60"], ["--strict"], ["--attn", "eager"], ["--device", "cpu"]])
def test_settings_that_change_no_answer_redo_nothing(cli, folder, tmp_path, other):
    output = tmp_path / "out.jsonl"
    cli("caption", folder, "-o", output, *SHORT)
    before = output.read_bytes()
    assert "0 done, 3 done before, 1 failed" in cli("caption", folder, "-o", output, *other, *SHORT)[2]
    assert output.read_bytes() == before


def test_strictness_decides_about_what_is_not_whole(cli, clip, tmp_path):
    whole = clip.read_bytes()
    make_clip(tmp_path / "cut.mp4", frames=60, container={"movflags": "faststart"})
    cut = (tmp_path / "cut.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(cut[: len(cut) * 2 // 3])
    (tmp_path / "whole.mp4").write_bytes(whole)
    args = ["caption", tmp_path, "-o", tmp_path / "out.jsonl", *SHORT]
    counts = [cli(*args)[2], cli(*args, "--strict")[2], cli(*args, "--strict")[2], cli(*args)[2], cli(*args)[2]]
    assert [record["status"] for record in records(tmp_path / "out.jsonl")] == ["degraded", "ok", "failed"]
    words = ["2 done, 0 done before", "0 done, 1 done before, 1", "0 done, 1 done before, 1", "0 done, 2", "0 done, 2"]
    assert all(word in told for word, told in zip(words, counts, strict=True))


def test_failures_are_named_however_quiet_and_again_later(cli, folder, tmp_path):
    status, _, err = cli("caption", folder, "--quiet", *SHORT)
    assert status == 5
    assert "failed  " in err and "broken.mp4" in err and "it contains text" in err and "note" not in err
    assert "1 of 4 videos failed" in err
    assert "1 of 1 video failed" in cli("caption", folder / "broken.mp4", "--quiet")[2]
    output = tmp_path / "out.jsonl"
    cli("caption", folder, "-o", output, *SHORT)
    assert "failed before  " in cli("caption", folder, "-o", output, *SHORT)[2]


def test_nothing_to_do_loads_no_torch(cli, folder, tmp_path):
    output = tmp_path / "out.jsonl"
    cli("caption", folder, "-o", output, *SHORT)
    code = "import sys; from vidcomp.cli.app import run; run(sys.argv[1:]); sys.exit('torch' in sys.modules)"
    line = [sys.executable, "-c", code, "caption", str(folder), "-o", str(output), *SHORT]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 0 and "3 done before" in done.stderr


@pytest.mark.parametrize("suffix", [".parquet", ".XLSX", ".md"])
def test_other_formats_are_not_pretended(cli, folder, tmp_path, suffix):
    status, _, err = cli("caption", folder, "-o", tmp_path / f"out{suffix}")
    assert status == 2 and "none of the formats" in err and "out.jsonl" in err
    assert not (tmp_path / f"out{suffix}").exists()


def test_a_damaged_results_file_is_healed_and_told(cli, folder, tmp_path):
    output = tmp_path / "out.jsonl"
    cli("caption", folder, "-o", output, *SHORT)
    lines = output.read_bytes().splitlines(keepends=True)
    output.write_bytes(lines[0] + b"what is this?\n" + b"".join(lines[1:]) + b"\0" * 512)
    err = cli("caption", folder, "-o", output, *SHORT)[2]
    assert "3 done before" in err and "out.jsonl.bad" in err
    assert output.read_bytes() == b"".join(lines)
