# SPDX-License-Identifier: Apache-2.0
"""Captions with times, of sample clips joined into one film: nano has to tell each part, at the times of the cuts."""

from __future__ import annotations

import itertools
import json
from fractions import Fraction
from pathlib import Path

import pytest
from clips import make_clip
from command_line import records
from test_subtitles import parsed

from vidcomp.batch.captions import caption_videos, in_this_process
from vidcomp.batch.tasks import Windows
from vidcomp.batch.window_log import WindowLog
from vidcomp.engine import film as film_module
from vidcomp.engine.film import find, segments
from vidcomp.engine.verdict import judged, spellings
from vidcomp.errors import InputError, UsageError
from vidcomp.video.windows import Every

PARTS = ("pink_ring_appears", "green_ring_moves_up", "blue_cross_moves_right")
SAID = [part.replace("_", " ") for part in PARTS]
CAPTIONS = [f"the {part}" for part in SAID]
PROMPT = "describe the video."


@pytest.fixture(scope="module")
def film(tmp_path_factory, samples):
    """The parts one after the other, and the number of the first frame of each, and of the end."""
    import av

    path, number, bounds = tmp_path_factory.mktemp("film") / "film.mp4", 0, [0]
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", 25, options={"crf": "12", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for part in PARTS:
            with av.open(str(samples / f"{part}.mp4")) as source:
                for frame in source.decode(video=0):
                    frame.pts, frame.time_base = number, Fraction(1, 25)
                    out.mux(stream.encode(frame.reformat(format="rgb24")))
                    number += 1
            bounds.append(number)
        out.mux(stream.encode())
    return path, [Fraction(bound, 25) for bound in bounds]


def run(lm, path, output, windows, **more):
    """One batch with the model of this process."""

    class Kept:
        def __enter__(self):
            return lm

        def __exit__(self, *_):
            pass

    answers = in_this_process(Kept, PROMPT, 1, more.pop("on_window", lambda *_: None))
    return list(caption_videos(answers, [path], PROMPT, lm.config.flat(), output, windows=windows, **more))


def test_each_part_of_a_joined_film_is_told_at_its_time(nano, film):
    path, bounds = film
    found = list(segments(nano, path, every="scene"))
    assert [(part.window.start, part.window.end) for part in found] == list(itertools.pairwise(bounds))
    assert [part.text for part in found] == CAPTIONS
    # a window reads no frame of its neighbours: its answer is that of the clip alone
    assert all(part.window.start <= time < part.window.end for part in found for time in part.answer.frames.exact_times)


def test_subtitles_on_the_command_line(cli, film, tmp_path):
    path, bounds = film
    out = tmp_path / "film.srt"
    assert cli("caption", path, "--every", "scene", "-o", out)[0] == 0
    expected = [(round(1000 * a), round(1000 * b), [text])
                for a, b, text in zip(bounds, bounds[1:], CAPTIONS, strict=False)]  # fmt: skip
    assert parsed(out.read_text()) == expected
    assert [entry.name for entry in tmp_path.iterdir()] == ["film.srt"]
    status, _, err = cli("caption", path, "--every", "scene", "-o", out)
    assert status == 2 and "--force" in err
    before = out.read_bytes()
    status, text, _ = cli("caption", path, "--every", "scene", "--format", "vtt")
    assert status == 0 and parsed(text) == expected and out.read_bytes() == before


def test_a_folder_gets_a_file_per_video(cli, film, tmp_path, samples):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    clip = (samples / "pink_ring_appears.mp4").read_bytes()
    for name in ("a.mp4", "a.mkv", "deep/a.mp4"):
        (tmp_path / "in" / name).write_bytes(clip)
    (tmp_path / "in" / "b.mp4").write_text("no video")
    status, _, _ = cli("caption", tmp_path / "in", "--format", "html", "-o", tmp_path / "out")
    assert status == 5
    pages = sorted(str(page.relative_to(tmp_path / "out")) for page in (tmp_path / "out").rglob("*.html"))
    assert pages == ["a.html", "a.mp4.html", "deep/a.html"]
    page = (tmp_path / "out" / "a.html").read_text()
    assert "the pink ring appears" in page and "data:image/jpeg;base64," in page
    assert [record["status"] for record in records(tmp_path / "out" / "captions.jsonl")] == ["ok", "ok", "failed", "ok"]
    status, _, err = cli("caption", tmp_path / "in", "--format", "html", "-o", tmp_path / "out")
    assert status == 5 and "0 done, 3 done before, 1 failed" in err


def test_a_record_has_a_segment_per_window(nano, film, tmp_path):
    path, bounds = film
    output = tmp_path / "out.jsonl"
    told = []
    windows = Windows(Every.parse("scene"), log=tmp_path / "logs")
    (_outcome,) = run(nano, path, output, windows, on_window=lambda task, text: told.append(text))
    (record,) = records(output)
    assert [part["caption"] for part in record["segments"]] == CAPTIONS
    assert [Fraction(part["exact_start"]) for part in record["segments"]] == bounds[:-1]
    assert record["tokens"]["kept"] == sum(part["tokens"]["kept"] for part in record["segments"])
    assert record["status"] == "ok" and record["windows"] == {"every": "scene", "min": "0", "max": None}
    assert told[0].startswith("looking for cuts") and told[-1] == "3 of 3 windows"
    assert not (tmp_path / "logs").exists()
    assert run(nano, path, output, windows)[0].skipped
    other = Windows(Every.parse("scene"), context=True, log=tmp_path / "logs")
    assert not run(nano, path, output, other)[0].skipped


def test_a_film_goes_on_behind_the_windows_that_were_done(nano, film, tmp_path, monkeypatch):
    path, _ = film
    output, logs = tmp_path / "out.jsonl", tmp_path / "logs"
    windows = Windows(Every.parse("scene"), log=logs)

    class Stop(BaseException):
        pass

    def stop(task, text):
        if text.startswith("2 of"):
            raise Stop

    with pytest.raises(Stop):
        run(nano, path, output, windows, on_window=stop)
    (log,) = logs.iterdir()
    with open(log, "ab") as file:
        file.write(b'{"window": 2, "seg')  # torn by a kill
    asked = []
    ask = nano.ask
    monkeypatch.setattr(nano, "ask", lambda *args, **more: asked.append(args) or ask(*args, **more))
    monkeypatch.setattr("vidcomp.batch.windows.plan_windows", None)  # cuts are not looked for again
    (outcome,) = run(nano, path, output, windows)
    assert len(asked) == 1
    assert [part["caption"] for part in outcome.record["segments"]] == CAPTIONS
    assert not logs.exists()


@pytest.mark.parametrize(
    "content", [b"", b"no log\n", b"[]\n", b'{"key": "x"}\n', b"\0" * 100, b'{"key": "y", "plan": {}}\n']
)
def test_a_log_of_other_work_is_begun_anew(tmp_path, content):
    path = tmp_path / "logs" / "x.jsonl"
    path.parent.mkdir()
    path.write_bytes(content)
    log = WindowLog(path, "x")
    assert log.plan is None and not log.done
    log.begin({"windows": [["0", "1", "0", "1/2"]]})
    log.note(0, {"segment": {"status": "ok"}})
    again = WindowLog(path, "x")
    assert again.plan == {"windows": [["0", "1", "0", "1/2"]]} and again.done == {0: {"segment": {"status": "ok"}}}


def test_a_window_that_cannot_be_read_is_a_segment_with_its_reason(nano, film, tmp_path, monkeypatch):
    path, bounds = film
    read = film_module.read_window

    def hole(lm, path, window):
        if window.start == bounds[1]:
            raise InputError("cannot read film.mp4", why="a hole", code="unreadable")
        return read(lm, path, window)

    monkeypatch.setattr(film_module, "read_window", hole)
    record = run(nano, path, None, Windows(Every.parse("scene"), context=True))[0].record
    assert [part["status"] for part in record["segments"]] == ["ok", "failed", "ok"]
    assert record["segments"][1]["error"]["why"] == "a hole" and record["segments"][1]["caption"] is None
    assert record["status"] == "degraded" and record["degraded"].startswith("1 of 3 windows failed")
    monkeypatch.setattr(film_module, "read_window", lambda *_: hole(nano, path, type("W", (), {"start": bounds[1]})))
    record = run(nano, path, None, Windows(Every.parse("scene")))[0].record
    assert record["status"] == "failed" and record["error"]["why"] == "a hole" and len(record["segments"]) == 3


def test_a_window_is_told_the_caption_before(nano, film, monkeypatch):
    path, _ = film
    asked = []
    ask = nano.ask
    monkeypatch.setattr(nano, "ask", lambda video, question, **more: asked.append(question) or ask(video, question))
    list(segments(nano, path, PROMPT, every="scene", context=True))
    assert asked[0] == PROMPT
    assert asked[1] == f"just before this: {CAPTIONS[0]}\n{PROMPT}"


def test_no_more_than_two_windows_are_in_memory(nano, film, monkeypatch):
    """However many windows there are."""
    import gc
    import weakref

    path, _ = film
    read, alive, most = film_module.read_window, weakref.WeakSet(), []

    def watched(lm, path, window):
        frames = read(lm, path, window)
        alive.add(frames)
        most.append(len(alive))
        return frames

    monkeypatch.setattr(film_module, "read_window", watched)
    monkeypatch.setattr(nano, "config", nano.config.replace(frames=2, max_new_tokens=1))
    for part in segments(nano, path, every="1s"):
        del part
        gc.collect()
    assert len(most) == 23 and max(most) <= 3


def test_find_tells_windows_and_how_probable_they_are(nano, film):
    path, bounds = film
    question = "is there a green ring?"
    found = list(find(nano, path, question, every="scene"))
    yes = [part.window.start for part in found if part.verdict.probability > 0.5]
    assert yes == [bounds[1]]
    for part in found:
        assert part.text == nano.ask(path, question, **part.window.settings()).text
        assert part.verdict.share > 0.9


def test_find_on_the_command_line(cli, film):
    path, bounds = film
    status, out, err = cli("find", path, "is there a green ring?", "--every", "scene", "--json")
    record = json.loads(out)
    assert status == 0 and record["status"] == "ok" and record["windows"] == 3
    assert [Fraction(entry["exact_start"]) for entry in record["found"]] == [bounds[1]]
    probable = [entry["probability"] for entry in record["others"]]
    assert len(probable) == 2 and max(probable) <= 0.5 < record["found"][0]["probability"]
    status, out, err = cli("find", path, "is there a green ring?", "--every", "scene", "--above", "0")
    rows = [line.split() for line in out.splitlines() if "%" in line]
    shares = [float(row[-1].rstrip("%")) for row in rows]
    assert status == 0 and shares == sorted(shares, reverse=True) and len(shares) == 3
    assert rows[0][0] == "00:00:08.280" and "yes in 3 of 3 windows" in err


@pytest.mark.parametrize("name", ["llava_onevision", "qwen2_5_vl", "smolvlm2"])
def test_the_probability_is_that_of_the_stock_logits(replicas, name):
    """Against ``generate`` of the library with its scores, over the plain model."""
    import torch

    import vidcomp

    with vidcomp.load(replicas(name), device="cpu", keep=1.0, frames=2, temperature=0, max_new_tokens=1) as lm:
        clip = make_clip(Path(replicas(name)).parent / "judged.mp4", frames=8)
        verdict = judged(lm, clip, "is it red?")
        scores = {}
        generate = lm.family.model.generate

        def noted(**inputs):
            out = generate(**{**inputs, "repetition_penalty": 1.0}, output_logits=True, return_dict_in_generate=True)
            scores["first"] = out.logits[0][0].double()
            return out.sequences

        lm.family.model.generate = noted
        try:
            lm.ask(clip, "is it red? Answer yes or no.")
        finally:
            del lm.family.model.generate
        yes, no = spellings(lm.family)
        shares = torch.softmax(scores["first"], 0)
        expected = float(shares[yes].sum() / (shares[yes].sum() + shares[no].sum()))
    assert verdict.probability == pytest.approx(expected, rel=1e-4)
    assert verdict.share == pytest.approx(float(shares[yes].sum() + shares[no].sum()), rel=1e-4)


@pytest.mark.parametrize(
    "line",
    [
        ("-o", "x.parquet"), ("-o", "x.srt", "--format", "vtt"), ("--min", "2s"), ("--every", "often"),
        ("--every", "5s", "--max", "0"), ("--context", "previous"),
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_refused(cli, clip, tmp_path, line, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, _err = cli("caption", clip, *line)
    assert status == 2 and not list(tmp_path.iterdir())


def test_one_subtitle_file_is_of_one_video(cli, clip, samples, tmp_path):
    for line in (("-o", tmp_path / "x.srt"), ("--format", "html")):
        status, _, err = cli("caption", clip, samples, *line)
        assert status == 2 and "-o folder/" in err


def test_a_film_without_a_cut_is_one_window(nano, clip):
    with pytest.raises(UsageError):
        list(segments(nano, clip, every="x"))
    assert [part.window.end for part in segments(nano, clip, every="scene")] == [Fraction(6, 5)]
