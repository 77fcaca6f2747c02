# SPDX-License-Identifier: Apache-2.0
"""Subtitles of hostile captions, read back by parsers that we did not write."""

from __future__ import annotations

import csv
import html
import io
import json
import re
import shutil
import subprocess
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidcomp.report.page.strip import strip_page
from vidcomp.report.subtitles import Cue, cues_of, plain, to_csv, to_srt, to_text, to_vtt

HOSTILE = [
    "1\n00:00:00,000 --> 00:00:09,000\nforged",
    "a <b>bold</b> <i claim & an &amp; entity --> out",
    "{\\an8}on top {not a tag} <3",
    "שלום עולם, مرحبا \u202eback to front\u202c",
    "one\r\n\r\n2\r\ntwo\x00\x1b[31m\x85three\u2028four",
    "NOTE\nSTYLE\n::cue { color: red }",
    "word " * 60,
    "x" * 200,
    "</li></ol><script>alert(1)</script>",
    "\ud83d lone half",
]
TIME = re.compile(r"(\d\d+):(\d\d):(\d\d)[,.](\d{3}) --> (\d\d+):(\d\d):(\d\d)[,.](\d{3})")

texts = st.text(st.characters(), max_size=200) | st.sampled_from(HOSTILE)
lengths = st.fractions(Fraction(1, 3000), 40, max_denominator=3000)


def cues(pairs):
    start, found = Fraction(0), []
    for text, length in pairs:
        found.append(Cue(start, start + length, plain(text)))
        start += length
    return found


def parsed(text):
    """Blocks of a subtitle file as (start, end, lines)."""
    found = []
    for block in re.split(r"\n\n+", text.strip("\n")):
        lines = block.split("\n")
        place = next((number for number, line in enumerate(lines) if TIME.fullmatch(line)), None)
        if place is None:
            assert block in ("", "WEBVTT")
            continue
        numbers = list(map(int, TIME.fullmatch(lines[place]).groups()))
        start, end = (((h * 60 + m) * 60 + s) * 1000 + ms for h, m, s, ms in (numbers[:4], numbers[4:]))
        found.append((start, end, lines[place + 1 :]))
    return found


@given(st.lists(st.tuples(texts, lengths), max_size=12))
def test_times_never_overlap_and_lines_are_short(pairs):
    shown = cues(pairs)
    for text in (to_srt(shown), to_vtt(shown)):
        blocks = parsed(text)
        free = 0
        for start, end, lines in blocks:
            assert free <= start < end and lines and "" not in lines
            free = end
            assert all(len(html.unescape(line).replace("\u2060", "")) <= 42 for line in lines)
        said = " ".join(html.unescape(" ".join(lines)) for _, _, lines in blocks).replace("\u2060", "")
        letters = "".join(cue.text for cue in shown).replace("\u2060", "")
        assert re.sub(r"\s", "", html.unescape(said)) == re.sub(r"\s", "", html.unescape(html.unescape(letters)))


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="no ffmpeg to read the subtitles with")
@pytest.mark.parametrize(("suffix", "write"), [("srt", to_srt), ("vtt", to_vtt)])
def test_ffmpeg_reads_what_was_written(tmp_path, suffix, write):
    shown = cues((text, Fraction(9001, 1000)) for text in HOSTILE)
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(write(shown).encode("utf-8", "replace"))
    read = subprocess.run(["ffmpeg", "-v", "error", "-i", path, "-f", "srt", "-"], capture_output=True, check=True)
    assert not read.stderr
    blocks = parsed(read.stdout.decode())
    ours = parsed(write(shown))
    assert [block[:2] for block in blocks] == [block[:2] for block in ours]
    said = " ".join(" ".join(lines) for _, _, lines in blocks).replace("\u2060", "")
    said = re.sub(r"\\(?=[{}])", "", said)  # its own mark that a brace begins no command
    wanted = " ".join(cue.text for cue in shown).encode("utf-8", "replace").decode().replace("\u2060", "")
    spaceless = [re.sub(r"\s", "", text) for text in (said, wanted)]
    assert spaceless[0] == spaceless[1]


def test_signs_and_points():
    cue = Cue(Fraction(3725), Fraction(3726) + Fraction(1, 3), "x")
    assert "01:02:05,000 --> 01:02:06,333" in to_srt([cue])
    assert to_vtt([cue]).startswith("WEBVTT\n\n01:02:05.000 --> 01:02:06.333\n")


def test_a_window_shorter_than_a_millisecond_lasts_one():
    short = [Cue(Fraction(n, 5000), Fraction(n + 1, 5000), str(n)) for n in range(4)]
    assert [block[:2] for block in parsed(to_srt(short))] == [(0, 1), (1, 2), (2, 3), (3, 4)]


def record(*captions):
    segments = [
        {"exact_start": f"{number}/3", "exact_end": f"{number + 1}/3", "status": "ok", "caption": caption}
        for number, caption in enumerate(captions)
    ]
    return {"status": "ok", "question": "<what>", "video": {"duration_seconds": 1.5}, "segments": segments}


def test_equal_neighbours_become_one():
    found = cues_of(record("a", "a", "b", "b ", "a"))
    assert [(cue.start * 3, cue.end * 3, cue.text) for cue in found] == [(0, 2, "a"), (2, 4, "b"), (4, 5, "a")]


def test_a_failed_window_is_a_gap_and_has_its_reason():
    failed = record("a", "b", "c")
    failed["segments"][1] |= {"status": "failed", "caption": None, "error": {"what": "cannot read x", "why": "hole"}}
    found = cues_of(failed)
    assert [block[:2] for block in parsed(to_srt(found))] == [(0, 333), (667, 1000)]
    rows = list(csv.DictReader(io.StringIO(to_csv(("f", cue) for cue in found))))
    assert rows[1]["status"] == "failed" and rows[1]["reason"] == "cannot read x: hole" and not rows[1]["caption"]
    assert "(failed: cannot read x: hole)" in to_text(found)


def test_a_record_without_windows_is_one_cue():
    whole = {"status": "ok", "caption": "all of it", "video": {"duration_seconds": 2.5}}
    assert cues_of(whole) == [Cue(Fraction(0), Fraction(5, 2), "all of it")]


def test_csv_survives_every_caption():
    shown = cues((text, Fraction(1)) for text in HOSTILE)
    rows = list(csv.DictReader(io.StringIO(to_csv(("a, b", cue) for cue in shown))))
    assert [row["caption"] for row in rows] == [cue.text for cue in shown]


def test_the_page_shows_captions_as_text():
    page = strip_page(json.loads(json.dumps(record(*HOSTILE))), "<film>")
    assert "<script" not in page and "&lt;script&gt;" in page and "&lt;film&gt;" in page
    assert "http" not in page.replace("http-equiv", "")
    assert page.count("<li>") == len(HOSTILE)
