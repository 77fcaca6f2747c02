# SPDX-License-Identifier: Apache-2.0
"""Merging inside the vision tower: against slow loops over the stock layers, and against the untouched tower."""

from __future__ import annotations

import pytest
import torch
from test_inllm import hooks_on
from tiny import tiny_model
from torch.nn.functional import cosine_similarity

from vidcomp.errors import UsageError
from vidcomp.tower import get_merger, list_mergers
from vidcomp.tower.earlytom import frame_groups, merged_middle
from vidcomp.tower.host import merging_tower
from vidcomp.tower.probe import encoder_layers

FRAMES, QUESTION = 9, "what happens?"


def tower_and_pixels(attn="sdpa", frames=3):
    model = tiny_model(attn)
    tower = model.get_encoder(modality="video")
    pixels = torch.randn(frames, 3, 54, 54, generator=torch.Generator().manual_seed(1))
    return tower, encoder_layers(tower), pixels


@torch.no_grad()
def run(tower, pixels):
    return tower(pixels, output_hidden_states=True).hidden_states[-1]


@torch.no_grad()
def loops_tome(tower, layers, pixels, r, weighted=True, penalty=None):
    """One frame at a time, one pair at a time; the last layer runs on all patches again."""
    outputs = []
    for frame in pixels:
        rows = tower.embeddings(frame[None])[0]
        members = [[i] for i in range(len(rows))]
        for index, layer in enumerate(layers):
            if index == len(layers) - 1:
                spread = torch.empty(sum(map(len, members)), rows.shape[1])
                for row, own in zip(rows, members, strict=True):
                    spread[own] = row
                rows, members = spread, [[i] for i in range(len(spread))]
            sizes = torch.tensor([float(len(own)) for own in members])
            normed = layer.layer_norm1(rows)
            heads = layer.self_attn.num_heads
            key = layer.self_attn.k_proj(normed).view(len(rows), heads, -1)
            query = layer.self_attn.q_proj(normed).view(len(rows), heads, -1)
            mask = sizes.log()[None, None, None] if weighted else None
            rows = layer(rows[None], mask)[0]
            if index < len(layers) - 1:
                value = penalty(index, query, key) if penalty else torch.zeros(len(rows))
                rows, members = loops_pairs(rows, members, key.mean(1), r, value)
        outputs.append(rows)
    return torch.stack(outputs)


def loops_pairs(rows, members, key, r, penalty):
    best = []
    for a in range(0, len(rows), 2):
        cosines = [float(cosine_similarity(key[a], key[b], dim=0)) for b in range(1, len(rows), 2)]
        partner = max(range(len(cosines)), key=lambda b: (cosines[b], -b))
        best.append((cosines[partner] - float(penalty[a]), a, 2 * partner + 1))
    best.sort(key=lambda item: (-item[0], item[1]))
    into = {a: b for _, a, b in best[: min(r, len(rows) // 2)]}
    groups = {i: [i] for i in range(len(rows)) if i not in into}
    for a, b in into.items():
        groups[b].append(a)
    merged, owners = [], []
    for group in groups.values():
        sizes = torch.tensor([float(len(members[i])) for i in group])
        merged.append((rows[group] * sizes[:, None]).sum(0) / sizes.sum())
        owners.append([patch for i in group for patch in members[i]])
    return torch.stack(merged), owners


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize(("r", "weighted"), [(7, True), (30, True), (99, False)])
def test_tome_equals_a_loop_over_pairs(attn, r, weighted):
    tower, layers, pixels = tower_and_pixels(attn)
    with merging_tower(layers, get_merger("tome", r=r, weighted=weighted)) as seen:
        ours = run(tower, pixels)
    torch.testing.assert_close(ours, loops_tome(tower, layers, pixels, r, weighted), rtol=0, atol=1e-4)
    first, second = 81 - min(r, 40), 81 - min(r, 40) - min(r, (81 - min(r, 40)) // 2)
    assert seen.rows == [3 * 81, 3 * first, 3 * 81] and second < first  # 3 layers: two read all patches
    assert seen.frames.tolist() == [0, 1, 2]


def test_the_loop_notices_a_missing_weight():
    tower, layers, pixels = tower_and_pixels()
    with merging_tower(layers, get_merger("tome", r=30, weighted=False)):
        ours = run(tower, pixels)
    assert (ours - loops_tome(tower, layers, pixels, 30, weighted=True)).abs().max() > 1e-3


def test_turbo_spares_what_the_mean_query_looks_at():
    tower, layers, pixels = tower_and_pixels()

    def penalty(index, query, key):
        attention = [(key[:, h] @ query[:, h].mean(0) * key.shape[-1] ** -0.5).softmax(0) for h in range(key.shape[1])]
        return 2 * 30 * 0.5**index * torch.stack(attention).mean(0)

    with merging_tower(layers, get_merger("turbo", r=20, alpha=2.0, beta=0.5)):
        ours = run(tower, pixels)
    expected = loops_tome(tower, layers, pixels, 20, True, penalty)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-4)
    assert (expected - loops_tome(tower, layers, pixels, 20)).abs().max() > 1e-3


def still_then_moving():
    generator = torch.Generator().manual_seed(3)
    base, other = torch.randn(2, 5, 8, generator=generator)
    noise = torch.randn(FRAMES, 5, 8, generator=generator)
    still = [base + 0.1 * noise[i] for i in range(5)]
    return torch.stack([*still, *(other + 0.1 * noise[i] for i in range(5, 8)), noise[8]])


def test_frames_group_while_they_stay_like_the_first():
    frames = still_then_moving()
    assert frame_groups(frames, 0.6, 6) == [(0, 5), (5, 8), (8, 9)]
    assert frame_groups(frames, 0.6, 4) == [(0, 3), (3, 5), (5, 8), (8, 9)]
    assert frame_groups(frames, -1.0, 99) == [(0, 9)]


def likeness(one, other):
    return float(cosine_similarity(one, other, dim=-1).mean())


def published_middle(frames):
    """The published walk, frame by frame: weights [new frames, frames]."""
    count, rows = len(frames), []
    eye = torch.eye(count)
    limit = likeness(frames[0], frames[-1])
    gains = [likeness(frames[i], frames[i + 1]) for i in range(1, count - 2)]
    i, length = 0, count - 2
    while i < length - 1:
        if i == length - 2 and gains[i] > limit:
            rows, i = [*rows, eye[i + 1]], i + 2
        elif i < length - 2 and gains[i] > limit and gains[i] > gains[i + 1]:
            w = gains[i] / (gains[i] + gains[i + 1])
            rows, i = [*rows, w * eye[i + 1] + (1 - w) * eye[i + 2]], i + 2
        else:
            rows, i = [*rows, eye[i + 1]], i + 1
    return torch.stack([eye[0], *rows, eye[-1]])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("count", [4, 5, 6, 9])
def test_the_middle_of_a_group_as_published(seed, count):
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randn(5, 8, generator=generator) + 0.5 * torch.randn(count, 5, 8, generator=generator)
    expected = published_middle(frames)
    owner, share = merged_middle(frames, official=True)
    weights = torch.zeros_like(expected)
    for frame, (new, weight) in enumerate(zip(owner, share, strict=True)):
        weights[new, frame] += weight
    torch.testing.assert_close(weights, expected)


@pytest.mark.parametrize("seed", range(6))
def test_no_frame_is_lost_and_weights_sum_to_one(seed):
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randn(5, 8, generator=generator) + 0.5 * torch.randn(7, 5, 8, generator=generator)
    owner, share = merged_middle(frames)
    sums = torch.zeros(owner[-1] + 1).index_add_(0, torch.tensor(owner), torch.tensor(share))
    torch.testing.assert_close(sums, torch.ones_like(sums))
    assert owner == sorted(owner) and len(set(owner)) == owner[-1] + 1 and min(share) > 0


def test_frames_merge_in_the_tower_as_in_a_loop():
    tower, layers, pixels = tower_and_pixels(frames=5)
    pixels = pixels[:1] + 0.2 * pixels
    pixels[2] = pixels[1] + 0.02 * pixels[2]
    merger = get_merger("earlytom", at=0)
    with merging_tower(layers, merger) as seen:
        ours = run(tower, pixels)
    with torch.no_grad():
        rows = layers[0](tower.embeddings(pixels), None)
        owner, share = merged_middle(rows)
        new = torch.zeros(owner[-1] + 1, *rows.shape[1:])
        for frame, (place, weight) in enumerate(zip(owner, share, strict=True)):
            new[place] += weight * rows[frame]
        for layer in layers[1:]:
            new = layer(new, None)
    assert len(new) < 5
    torch.testing.assert_close(ours, new[torch.tensor(owner)], rtol=0, atol=1e-4)
    assert seen.frames.tolist() == owner
    assert seen.rows == [5 * 81, len(new) * 81, 5 * 81]


def test_nothing_is_left_behind_even_after_an_error():
    tower, layers, pixels = tower_and_pixels()
    before, hooks = run(tower, pixels), hooks_on(tower)
    with pytest.raises(RuntimeError, match="stop"):
        with merging_tower(layers, get_merger("tome")):
            assert hooks_on(tower) > hooks
            raise RuntimeError("stop")
    assert hooks_on(tower) == hooks
    assert torch.equal(run(tower, pixels), before)


def test_the_whole_flow_counts_tower_rows_and_merged_frames(nano, samples):
    video = samples / "blue_cross_moves_right.mp4"
    answer = nano.ask(video, QUESTION, keep=0.5, method="uniform", inner="none", encoder="tome:r=30", max_new_tokens=2)
    assert answer.ledger.tower_rows == [8 * 144, 8 * 114, 8 * 84, 8 * 144]
    assert answer.ledger.tokens.kept == 144
    merged = nano.encode(video, keep=0.5, method="uniform", inner="none", encoder="earlytom:tau=-1,window=9")
    left = merged.view.features.shape[0]
    assert left == len(merged.plan.encode) < 8 == merged.ledger.frames_encoded
    assert "chunk" not in vars(nano.family)
    plain = nano.encode(video, keep=0.5, method="uniform", inner="none")
    assert plain.ledger.tower_rows == []
    answer = nano.ask(video, QUESTION, keep=0.5, method="uniform", inner="none",
                      encoder="earlytom:tau=-1,window=9", max_new_tokens=2)  # fmt: skip
    assert answer.ledger.tokens.uncompressed == 288
    assert answer.ledger.tokens.kept == min(144, left * 36)


@pytest.mark.parametrize(("encoder", "says"), [
    ("tom", "did you mean 'tome'"), ("tome:r=0", "at least 1"), ("tome:s=3", "no parameter"),
    ("earlytom:at=9", "layers from 0 to 2"), ("earlytom:window=1", "at least 2"), ("turbo:beta=0", "beta in"),
])  # fmt: skip
def test_wrong_mergers_are_clear_errors(nano, samples, encoder, says):
    with pytest.raises(UsageError) as error:
        nano.encode(samples / "blue_cross_moves_right.mp4", encoder=encoder)
    assert says in f"{error.value} {error.value.hint}"


def test_methods_that_read_every_layer_are_refused(nano, samples):
    with pytest.raises(UsageError, match="every layer"):
        nano.encode(samples / "blue_cross_moves_right.mp4", encoder="tome", signals=frozenset({"cls_by_layer"}))


def test_flash_attention_cannot_weigh_rows():
    _, layers, _ = tower_and_pixels()
    layers[0].self_attn.config._attn_implementation = "flash_attention_2"
    with pytest.raises(UsageError, match="weigh rows"), merging_tower(layers, get_merger("tome")):
        pass


def test_the_list_of_mergers():
    assert {info.name for info in list_mergers()} == {"tome", "turbo", "earlytom"}
    assert all(info.stage == "encoder" and info.summary and info.source for info in list_mergers())
