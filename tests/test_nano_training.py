# SPDX-License-Identifier: Apache-2.0
"""What the last training stage does to visual tokens: contrast, averages of what repeats, remembered videos."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from training.nano.ahead import ahead
from training.nano.contrast import contrast_loss, shares
from training.nano.export import load_exported
from training.nano.joint import Memory
from training.nano.language import WORLDS
from training.nano.model import build_model, load_weights
from training.nano.progress import RunSettings
from training.nano.repeats import allowed, choose, stretches
from training.nano.tower import FrameBatch, cut_windows, frame_batch
from training.nano.train import start_from
from vidcomp.bench.world.videos import WIDE, Options, make_video, sample_times
from vidcomp.bench.world.vocabulary import UNK, VOCABULARY
from vidcomp.nano import CHECKPOINT


def _tokens(shown: torch.Tensor) -> torch.Tensor:
    """Tokens that say exactly what a cell shows, one direction per slot."""
    loud = torch.cat([shown[..., :3], 3 * shown[..., 3:]], -1)  # objects speak louder than the ground beside them
    return functional.normalize(loud, dim=-1).flatten(1, 2)


def test_shares_add_up_and_follow_the_event() -> None:
    times = sample_times(8)
    videos = [make_video(seed, replace(WIDE, digit=0.0)) for seed in range(12)]
    table = shares(videos, times)
    torch.testing.assert_close(table.sum(-1), torch.ones(12, 8, 36))
    for video, cells in zip(videos, table, strict=True):
        for before, after, one, other in zip(times, times[1:], cells, cells[1:], strict=False):
            if video.scene_at(before) != video.scene_at(after):
                assert ((one - other).abs().sum(-1) > 1.9).all()


def test_tokens_that_tell_what_they_show_have_little_contrast_loss() -> None:
    torch.manual_seed(0)
    table = shares([make_video(seed) for seed in range(8)], sample_times(8))
    telling = contrast_loss(_tokens(table), table)
    same = contrast_loss(torch.ones(8, 288, 4), table)
    mixed = contrast_loss(torch.randn(8, 288, 128), table)
    assert telling < 0.1 < 0.4 < same < mixed


def test_contrast_moves_tokens_apart_where_an_object_turns() -> None:
    video = next(v for seed in range(99) if (v := make_video(seed, Options(scenes=(1,), kinds=("turn",), pan=0.0))))
    table = shares([video], sample_times(8))
    changed = 0.5 * (table[0, 0] - table[0, -1]).abs().sum(-1) > 0.5
    assert changed.any()
    tokens = torch.ones(1, 288, 8, requires_grad=True)
    optimizer = torch.optim.SGD([tokens], lr=3.0)
    torch.manual_seed(1)
    with torch.no_grad():
        tokens += 0.1 * torch.randn_like(tokens)
    for _ in range(150):
        optimizer.zero_grad()
        contrast_loss(tokens, table).backward()
        optimizer.step()
    grid = functional.normalize(tokens.detach(), dim=-1).view(8, 36, 8)
    cosine = (grid[0] * grid[-1]).sum(-1)
    assert cosine[changed].max() < 0.65 < 0.85 < cosine[~changed].median()


@pytest.mark.parametrize("seed", range(8))
def test_what_repeats_is_averaged_and_what_changes_is_not(seed: int) -> None:
    torch.manual_seed(seed)
    dice = random.Random(seed)
    grid = torch.randn(2, 1, 36, 64).expand(2, 8, 36, 64).clone()
    grid[:, 4:, 10] = torch.randn(2, 1, 64)
    parts = stretches(grid.flatten(1, 2), dice)
    start = parts.stretch.view(2, 8, 36)
    assert (start[:, 0] == 0).all() and (start <= torch.arange(8)[:, None]).all()
    static = parts.static.view(2, 8, 36)
    assert static[:, :, :10].all() and static[:, :, 11:].all()
    values = parts.values.view(2, 8, 36, 64)
    for video in range(2):
        whole = (start[video, :, 10] == start[video, 4, 10]).sum() if start[video, 3, 10] < start[video, 4, 10] else 0
        assert static[video, 4, 10] == bool(whole), "a change is static only if a stretch begins with it"
    torch.testing.assert_close(values[:, :, :10], grid[:, :, :10], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("seed", range(8))
def test_the_number_of_survivors_is_exact_and_members_are_legal(seed: int) -> None:
    torch.manual_seed(seed)
    dice = random.Random(seed)
    tokens = torch.randn(3, 1, 36, 16).expand(3, 8, 36, 16) + 0.1 * torch.randn(3, 8, 36, 16)
    tokens[:, 3:, :6] = torch.randn(3, 5, 6, 16)
    parts = stretches(tokens.flatten(1, 2), dice)
    count = dice.randint(28, 287)
    stay = choose(parts, torch.rand(3, 8, 36), count, dice)
    assert stay.sum(1).tolist() == [count] * 3
    keep = stay.float().topk(count, 1).indices.sort(1).values
    pairs = allowed(parts, keep, dice)
    video, token, survivor = pairs.nonzero().unbind(1)
    target = keep[video, survivor]
    averaged = parts.static[video, token]
    same_stretch = parts.stretch[video, token] == parts.stretch[video, target]
    same_frame = token // 36 == target // 36
    assert (same_stretch & parts.static[video, target])[averaged].all() and same_frame[~averaged].all()


def test_remembered_videos_are_asked_something_else(tmp_path: Path) -> None:
    model = build_model()
    model.model.vision_tower.requires_grad_(False)
    memory = Memory(RunSettings(tmp_path), model, replace(WORLDS["small"], batch=3), 0, 1.0)
    (first, seen), (second, again) = memory.next_batch(), memory.next_batch()
    assert first.videos == second.videos and torch.equal(seen.to(torch.bfloat16), again)
    assert first.questions != second.questions and not seen.requires_grad


def test_an_older_checkpoint_learns_new_words_as_unknown_ones() -> None:
    model = build_model()
    state = {
        key: value[:100] if "embed_tokens" in key or "lm_head" in key else value
        for key, value in model.state_dict().items()
    }
    wider = build_model(seed=1)
    load_weights(wider, state)
    table = wider.get_input_embeddings().weight
    assert len(table) == len(VOCABULARY)
    torch.testing.assert_close(table[:100], model.get_input_embeddings().weight[:100])
    assert (table[100:] == table[VOCABULARY[UNK]]).all()
    with pytest.raises(RuntimeError):
        load_weights(wider, {})


def test_windows_around_digits_show_them() -> None:
    batch = frame_batch(0, 16, replace(WORLDS["digits"].options, digit=1.0))
    shown = (batch.digit > 0).any(1)
    assert shown.sum() >= 4
    some = FrameBatch(*(part[shown] for part in batch.tensors()))
    windows = cut_windows(some, some.digit > 0, random.Random(0), 4)
    assert (windows.digit > 0).any(1).float().mean() > 0.8
    assert torch.equal(windows.digit[0], some.digit[0][windows.positions[0]])
    assert not (frame_batch(0, 16).digit != 0).any()


def test_only_stages_that_start_from_a_whole_model_start_from_a_checkpoint(tmp_path: Path) -> None:
    run = RunSettings(tmp_path)
    with pytest.raises(ValueError, match="salience, robust"):
        start_from(run, "tower", CHECKPOINT)
    start_from(run, "robust", CHECKPOINT)
    model = build_model()
    load_weights(model, run.load("robust")["model"])
    shipped = load_exported(CHECKPOINT).state_dict()
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value[: len(shipped[key])] if value.dim() else value, shipped[key])


def _pixels(seed: int) -> tuple[int, torch.Tensor]:
    return seed, frame_batch(seed, 2).pixels


def test_data_made_ahead_is_that_made_here_in_the_same_order() -> None:
    here = list(islice(ahead(_pixels, 40, 4, 0), 3))
    there = list(islice(ahead(_pixels, 40, 4, 2), 3))
    assert [seed for seed, _ in there] == [40, 44, 48]
    for (_, one), (_, other) in zip(here, there, strict=True):
        assert torch.equal(one, other)
