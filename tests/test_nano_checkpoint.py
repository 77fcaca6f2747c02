# SPDX-License-Identifier: Apache-2.0
"""What is shipped: the checkpoint answers in its world, blindness does not, and the samples keep their promise."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from training.nano.evaluate import evaluate
from training.nano.export import load_exported
from training.nano.frame_encoder_training import separation
from vidcomp.cli.app import run
from vidcomp.nano import CHECKPOINT, FRAME_ENCODER

SAMPLES = Path(__file__).parents[1] / "samples"
LISTED = json.loads((SAMPLES / "samples.json").read_text(encoding="utf-8"))
HUB_FILES = {
    "README.md",
    "chat_template.json",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "preprocessor_config.json",
    "processor_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "video_preprocessor_config.json",
}


@pytest.fixture(scope="module")
def checkpoint():
    return load_exported(CHECKPOINT).eval()


def test_the_folder_is_that_of_a_hub_repository():
    assert {file.name for file in CHECKPOINT.iterdir()} == HUB_FILES
    assert sum(file.stat().st_size for file in CHECKPOINT.iterdir()) < 16e6
    card = (CHECKPOINT / "README.md").read_text(encoding="utf-8")
    assert "understands\nthis little world and nothing else" in card or "nothing else" in card
    assert json.loads((CHECKPOINT / "video_preprocessor_config.json").read_text())["num_frames"] == 8


def test_it_answers_from_what_it_sees(checkpoint):
    report = evaluate(checkpoint, "test", videos=16)
    assert report.model.macro > 0.85
    assert report.blind.macro < 0.5


def test_it_answers_nothing_about_grey_frames(checkpoint, monkeypatch):
    grey = torch.zeros(8, 8, 3, 96, 96)
    monkeypatch.setattr("training.nano.evaluate.render_batch", lambda videos, times, dice: grey[: len(videos)])
    blinded = evaluate(checkpoint, "test", videos=16).model.accuracy()
    assert max(blinded[kind] for kind in ("end", "first", "after", "which", "caption")) < 0.2


def test_the_frame_encoder_sees_changes_and_ignores_noise():
    from transformers import AutoModel

    scores = separation(AutoModel.from_pretrained(FRAME_ENCODER).eval(), 24)
    assert scores["same_patches"] > 0.95 > 0.4 > scores["changed_patches"]


def test_there_are_enough_samples_and_all_are_small():
    assert len(LISTED) >= 8
    for entry in LISTED:
        assert (SAMPLES / entry["file"]).stat().st_size < 150_000
        assert "what happens at the end?" in [asked["question"] for asked in entry["questions"]]
    assert {file.name for file in SAMPLES.glob("*.mp4")} == {entry["file"] for entry in LISTED}


@pytest.mark.parametrize("keep", ["1.0", "0.1"])
@pytest.mark.parametrize("entry", LISTED, ids=lambda entry: entry["file"])
def test_samples_are_answered_on_the_command_line(entry, keep, capfd):
    for asked in entry["questions"][:2]:
        capfd.readouterr()
        assert run(["ask", str(SAMPLES / entry["file"]), asked["question"], "--keep", keep, "--quiet"]) == 0
        assert capfd.readouterr().out.strip() == asked["answer"]
