# SPDX-License-Identifier: Apache-2.0
"""The shipped samples: their questions are answered truthfully at keep 1.0, 0.25 and 0.1, through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest

from vidcomp.cli.app import run

FOLDER = Path(__file__).resolve().parent.parent / "samples"
LISTED = json.loads((FOLDER / "samples.json").read_text(encoding="utf-8"))
NAMES = [entry["file"].removesuffix(".mp4") for entry in LISTED]


def test_there_are_enough_of_them_and_no_others():
    assert len(LISTED) >= 8
    assert {entry["file"] for entry in LISTED} == {path.name for path in FOLDER.glob("*.mp4")}
    for entry in LISTED:
        assert entry["questions"][0]["question"] == "what happens at the end?"
        assert (FOLDER / entry["file"]).stat().st_size < 200_000


@pytest.mark.parametrize("entry", LISTED, ids=NAMES)
def test_format(entry):
    clip = cv2.VideoCapture(str(FOLDER / entry["file"]))
    assert (clip.get(cv2.CAP_PROP_FRAME_WIDTH), clip.get(cv2.CAP_PROP_FRAME_HEIGHT)) == (320, 240)
    assert clip.get(cv2.CAP_PROP_FPS) == 25
    assert 6 <= clip.get(cv2.CAP_PROP_FRAME_COUNT) / 25 <= 20


@pytest.mark.parametrize("keep", [1.0, 0.25, 0.1])
@pytest.mark.parametrize("entry", LISTED, ids=NAMES)
def test_every_listed_question(nano, entry, keep):
    encoded = nano.compress(FOLDER / entry["file"], keep=keep)
    for asked in entry["questions"]:
        assert nano.ask(encoded, asked["question"]).text == asked["answer"], asked["question"]


@pytest.mark.parametrize("keep", ["1.0", "0.1"])
@pytest.mark.parametrize("entry", LISTED, ids=NAMES)
def test_through_the_command_line(entry, keep, capfd):
    for asked in entry["questions"][:2]:
        capfd.readouterr()
        status = run(["ask", str(FOLDER / entry["file"]), asked["question"], "--keep", keep, "--json", "--quiet"])
        record = json.loads(capfd.readouterr().out)
        assert (status, record["answer"]) == (0, asked["answer"])
        tokens = record["tokens"]
        slack = record["frames"]["sampled"] + len(record["spans"])  # every count is rounded
        assert tokens["kept"] <= float(keep) * tokens["uncompressed"] + slack
