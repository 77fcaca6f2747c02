# SPDX-License-Identifier: Apache-2.0
"""Position ids of survivors: the policies by hand, and several positions per row against rotary tables made by hand."""

from __future__ import annotations

import pytest
import torch
from test_inllm import STEPS, Drop, sequence, visible_rows, with_answer
from tiny import masked_reference, tiny_model
from torch import nn

from vidcomp.core.tokens import Reduction
from vidcomp.engine.decoder import Attachment, CompressedCache, RowPlan
from vidcomp.engine.positions import GROUPS, PositionPolicy, position_policy, spread_members
from vidcomp.errors import UsageError
from vidcomp.schedules import get_schedule

REDUCTION = Reduction(  # of 12 tokens: one alone, one of ten members, one dropped
    torch.tensor([0, 5]), torch.tensor([0, 1, 1, 1, 1, 1, 1, 1, -1, 1, 1, 1]),
    torch.tensor([1.0, *[0.1] * 7, 0, *[0.1] * 3]),
)  # fmt: skip


class Angles(nn.Module):
    """Rotary tables from the definition: frequency f turns by its own row of places [K, S]."""

    def __init__(self, places: torch.Tensor, size: int, base: float) -> None:
        super().__init__()
        self.places, self.size, self.base = places, size, base

    def forward(self, hidden: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        half = self.size // 2
        columns = [self.places[f * len(self.places) // half] / self.base ** (2 * f / self.size) for f in range(half)]
        angles = torch.stack(columns * 2, dim=-1)[None]
        return angles.cos(), angles.sin()


def test_members_by_hand() -> None:
    assert spread_members(REDUCTION, 4).tolist() == [[0, 0, 0, 0], [2, 4, 7, 10]]  # members 1, 3, 6, 8 of ten


@pytest.mark.parametrize("layers", [(), (3,), (1, 4)])
def test_rows_with_several_positions_equal_tables_made_by_hand(layers: tuple[int, ...]) -> None:
    model = tiny_model()
    rows, flags = sequence(model)
    base = torch.arange(len(rows)) * 2
    moved = torch.randint(0, 9, (GROUPS, len(rows)), generator=torch.Generator().manual_seed(0)).sort(0).values
    places = base + torch.where(flags, moved, 0)
    out, cache = generated(model, rows, flags, base[None], Drop(*layers) if layers else None, places)
    full, positions = with_answer(model, rows, base[None], out.sequences[0])
    steps = positions[0, len(rows) :]
    text = model.config.text_config
    kept = {layer: visible_rows(cache, layer, flags, len(full)) for layer in layers}
    decoder = model.get_decoder()
    decoder.rotary_emb = Angles(
        torch.cat([places, steps.expand(GROUPS, -1)], 1), text.hidden_size // text.num_attention_heads,
        text.rope_parameters["rope_theta"],
    )  # fmt: skip
    expected = masked_reference(model, full, positions, kept)[len(rows) - 1 :]
    assert torch.stack(out.logits)[:, 0].sub(expected).abs().max() < 1e-4
    decoder.rotary_emb.places = positions.expand(GROUPS, -1)
    plain = masked_reference(model, full, positions, kept)[len(rows) - 1 :]
    assert (plain - expected).abs().max() > 1e-2  # the reference can fail


@torch.no_grad()
def generated(model, rows, flags, positions, schedule, places):
    text = model.config.text_config
    cache = CompressedCache(text, RowPlan(flags, text.num_hidden_layers, schedule, positions=places))
    with Attachment(model):
        out = model.generate(
            inputs_embeds=rows[None], position_ids=positions, past_key_values=cache, max_new_tokens=STEPS,
            attention_mask=torch.ones(1, len(rows), dtype=torch.long), do_sample=False, output_logits=True,
            return_dict_in_generate=True,
        )  # fmt: skip
    return out, cache


def test_equal_positions_are_the_stock_models_to_the_bit() -> None:
    model = tiny_model()
    rows, flags = sequence(model)
    positions = torch.arange(len(rows))[None]
    plain, _ = generated(model, rows, flags, positions, None, None)
    several, _ = generated(model, rows, flags, positions, None, positions.expand(GROUPS, -1))
    assert all(torch.equal(a, b) for a, b in zip(plain.logits, several.logits, strict=True))


def test_every_merger_takes_them(nano, samples) -> None:
    clip, question = samples / "blue_cross_moves_right.mp4", "what happens?"
    for method in ("pool", "holitom", "tome"):
        encoded = nano.compress(clip, method=method, keep=0.25, positions="ppe")
        prefill = nano.prepare(encoded, question)
        merged = int((encoded.tokens.members > 1).sum())
        before = len(nano.family.prompt(question, encoded.encoded.layout).before)
        places = prefill.cache.plan.positions
        assert places is not None and places.shape == (GROUPS, len(prefill.rows))
        assert int((places[0] != places[-1]).sum()) == merged > 0
        spread = spread_members(encoded.reduction, GROUPS).T + before
        assert torch.equal(places[:, before : before + len(encoded.tokens)], spread)
        outside = [*range(before), *range(before + len(encoded.tokens), len(prefill.rows))]
        kept = nano.prepare(nano.compress(clip, method=method, keep=0.25, positions="keep"), question).positions
        assert (places[:, outside] == kept[:, outside]).all()
        assert prefill.positions[0, before : before + len(encoded.tokens)].diff().min() > 0
        assert nano.ask(encoded, question).text
    with pytest.raises(UsageError, match="renumbers"):
        nano.ask(clip, question, keep=0.25, positions="ppe", inner="pyramiddrop:positions=compact")


class Rows:
    """What a family says of its positions."""

    model_type = "some_model"

    def __init__(self, axes: int, own: str) -> None:
        self.position_axes, self.positions = axes, own


@pytest.mark.parametrize("axes", [1, 3])
@pytest.mark.parametrize("inner", [None, "pyramiddrop", "pyramiddrop:compact"])
@pytest.mark.parametrize("counted", [False, True])
@pytest.mark.parametrize("setting", ["auto", "keep", "compact", "ppe"])
@pytest.mark.parametrize("own", ["keep", "compact"])
def test_every_combination_is_decided_or_refused(axes, inner, counted, setting, own) -> None:
    schedule = inner and get_schedule("pyramiddrop", positions="compact" if "compact" in inner else "keep")
    renumbers = inner is not None and "compact" in inner
    refused = (renumbers and (axes > 1 or setting == "ppe")) or (setting == "ppe" and (axes > 1 or counted))
    if refused:
        with pytest.raises(UsageError):
            position_policy(setting, Rows(axes, own), schedule, counted)
    else:
        chosen = position_policy(setting, Rows(axes, own), schedule, counted)
        assert chosen.name == (own if setting == "auto" else setting)


def test_rows_are_numbered_by_hand() -> None:
    full, rows = torch.tensor([[0, 1, 2, 5, 9], [0, 1, 1, 3, 9]]), torch.tensor([0, 2, 4])
    assert PositionPolicy("keep").ids(full, rows).tolist() == [[0, 2, 9], [0, 1, 9]]
    assert PositionPolicy("ppe").ids(full, rows).tolist() == [[0, 2, 9], [0, 1, 9]]
    assert PositionPolicy("compact").ids(full, rows).tolist() == [[0, 1, 2]] * 2


def test_a_run_is_refused_before_a_video_is_read(nano, tmp_path) -> None:
    with pytest.raises(UsageError, match="renumber"):
        nano.ask(tmp_path / "missing.mp4", "first?", positions="ppe", inner="pyramiddrop:positions=compact")
