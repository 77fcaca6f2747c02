# SPDX-License-Identifier: Apache-2.0
"""Every family against the stock model: bit-equal without reduction, equal to a masked reference with it.

The reference starts from what the stock model itself hands to its decoder for the uncompressed clip, hides rows instead
of cutting them, and knows nothing of prompts, arrangement, caches or hooks.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache, cached_property

import pytest
import torch
from families import FAMILY_NAMES, QUESTION, checkpoint, load, moving_square, stock_inputs
from test_inllm import Drop
from tiny import masked_reference

from vidcomp.core.tokens import Reduction, TokenView, apply_reduction
from vidcomp.engine.decoder import Attachment
from vidcomp.engine.positions import PositionPolicy
from vidcomp.engine.prefill import assembled

TIMES, DURATION = [0.0, 2.0, 4.0, 6.0, 8.0], 10.0  # longer than the grid of tokens is wide
PLAIN = dict(do_sample=False, repetition_penalty=1.0, temperature=None, top_p=None, top_k=None, output_logits=True,
             return_dict_in_generate=True)  # fmt: skip


@pytest.fixture(scope="module")
def cases(replicas, tmp_path_factory):
    folder = tmp_path_factory.mktemp("siblings")

    @cache
    def case(name, attn="sdpa", double=False):
        family = load(checkpoint(replicas, folder, name), attn)
        if double:
            family.model.double()
        return Case(family)

    return case


class Case:
    """One clip seen by one family: its layout, its view, and what the stock model reads for it."""

    def __init__(self, family):
        self.family, self.model = family, family.model
        clip = moving_square(2 * family.frames_per_slice + 1)  # three slices, the last one odd
        self.layout = family.layout(TIMES[: len(clip)], *clip.shape[1:3], DURATION)
        encoded = family.encode(clip, layout=self.layout)
        times = torch.tensor(self.layout.times)
        self.view = TokenView(encoded.features, self.layout.grid, times, deepstack=encoded.deepstack)
        self.inputs = stock_inputs(family, clip, self.layout)

    def dropped_to(self, kept):
        """Keep the tokens with these flat indices, in ascending order."""
        assign = torch.full((self.view.total,), -1)
        assign[kept] = torch.arange(len(kept))
        weights = torch.ones(self.view.total)
        return apply_reduction(self.view, Reduction(kept, assign, weights))

    def prefill(self, kept, positions="keep", schedule=None):
        return assembled(self.family, self.layout, self.dropped_to(kept), QUESTION, PositionPolicy(positions), schedule)

    def answer(self, prefill, steps, **more):
        rows = prefill.rows
        with Attachment(self.model):
            return self.model.generate(
                inputs_embeds=rows[None], position_ids=prefill.positions, past_key_values=prefill.cache,
                attention_mask=torch.ones(1, len(rows), dtype=torch.long), max_new_tokens=steps, **PLAIN, **more,
            )  # fmt: skip

    @cached_property
    @torch.no_grad()
    def read_by_the_stock_decoder(self):
        """Rows [S, D], positions [R, S] and DeepStack levels of the uncompressed sequence."""
        seen = {}
        handle = self.model.get_decoder().register_forward_pre_hook(
            lambda module, args, kwargs: seen.update(kwargs), with_kwargs=True
        )
        self.model(**self.inputs)
        handle.remove()
        rows, positions = seen["inputs_embeds"][0], seen.get("position_ids")
        if positions is None:
            positions = torch.arange(len(rows))[None]
        return rows, positions.reshape(-1, len(rows))[-3:], seen.get("deepstack_visual_embeds") or []

    def reference(self, answer, prefill, kept, positions, moved=0, hide=None):
        """Logits of every answered step: hidden rows instead of cut ones, on the uncompressed sequence."""
        rows, places, levels = self.read_by_the_stock_decoder
        is_visual = self.inputs["input_ids"][0] == self.family.visual_id
        visual = is_visual.nonzero()[:, 0]
        tokens = visual[: self.view.total]
        alive = torch.zeros(len(rows), dtype=torch.bool)
        alive[~is_visual], alive[tokens[kept]], alive[visual[self.view.total :]] = True, True, True
        alive[self.lost_markers(kept)] = False
        full = alive.nonzero()[:, 0]
        if positions == "compact":
            places = places.clone()
            places[:, full] = torch.arange(len(full))
        fed = answer.sequences[0, :-1]
        steps = torch.arange(1, len(fed) + 1).expand(len(places), -1) + places[:, -1:]
        places = torch.cat([places, steps], 1) * (1 + moved)
        answered = torch.arange(len(rows), len(rows) + len(fed))
        text = full[~torch.isin(full, visual)]
        seen = {0: torch.cat([full, answered])}
        for layer, survivors in list(prefill.cache.measured.survivors.items())[1:]:
            seen[layer] = torch.cat([text, full[survivors[0]], answered])
        if hide is not None:
            seen[hide] = seen[hide][seen[hide] != tokens[kept[1]]]
        rows = torch.cat([rows, self.model.get_input_embeddings()(fed)])
        places = places if len(places) == 1 else places[:, None]
        added = [(visual, level) for level in levels]
        return masked_reference(self.model, rows, places, seen, added=added)[places.shape[-1] - len(fed) - 1 :]

    def lost_markers(self, kept):
        """Text rows that belong to slices that lost everything: from the end of the slice before to their own end."""
        empty = sorted(set(range(self.layout.slices)) - set((kept // self.layout.tokens).tolist()))
        markers = self.family.markers(self.layout)
        if not empty or not any(markers.opening):
            return torch.tensor([], dtype=torch.long)
        closing = len(self.family.tokenizer(markers.closing, add_special_tokens=False).input_ids)
        visual = (self.inputs["input_ids"][0] == self.family.visual_id).nonzero()[:, 0].view(self.layout.slices, -1)
        assert 0 not in empty, "the first slice has other text before it"
        spans = [torch.arange(int(visual[t - 1, -1]), int(visual[t, -1])) + 1 + closing for t in empty]
        return torch.cat([span[~torch.isin(span, visual)] for span in spans])


def random_tokens(case, share, seed=3):
    count = max(1, round(case.view.total * share))
    order = torch.randperm(case.view.total, generator=torch.Generator().manual_seed(seed))
    return order[:count].sort().values


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_keep_1_is_bit_equal_to_stock_generate(cases, name, attn):
    case = cases(name, attn)
    stock = case.model.generate(**case.inputs, max_new_tokens=8, **PLAIN)
    ours = case.answer(case.prefill(torch.arange(case.view.total)), 8)
    assert all(torch.equal(one, other) for one, other in zip(stock.logits, ours.logits, strict=True))
    assert torch.stack(stock.logits).std() > 0.1  # not flat


SETTINGS = [  # outer, inner layers, positions, kernel: every value of one meets the values of the others over the table
    (0.4, (1,), "keep", "sdpa"),
    (0.4, (3,), "compact", "eager"),
    (1.0, (1, 3, 4), "keep", "eager"),
    (0.4, (1, 3, 4), "compact", "sdpa"),
    (0.4, (), "keep", "eager"),
    (1.0, (1,), "compact", "sdpa"),
]


@pytest.mark.parametrize(("outer", "layers", "positions", "attn"), SETTINGS)
@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_pruned_logits_equal_the_masked_reference(cases, name, outer, layers, positions, attn):
    def difference(case):
        kept = random_tokens(case, outer)
        prefill = case.prefill(kept, positions, Drop(*layers) if layers else None)
        answer = case.answer(prefill, 5)
        expected = case.reference(answer, prefill, kept, positions)
        return torch.stack(answer.logits)[:, 0].sub(expected).abs().max()

    # Where logits are large, rounding alone may reach the bound on some processors; in double precision it does not.
    assert difference(cases(name, attn)) < 1e-4 or difference(cases(name, attn, double=True)) < 1e-4


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_the_reference_can_fail(cases, name):
    case = cases(name)
    kept = random_tokens(case, 0.4)
    prefill = case.prefill(kept, "keep", Drop(3))
    answer = case.answer(prefill, 5)
    logits = torch.stack(answer.logits)[:, 0]
    wrong_places = case.reference(answer, prefill, kept, "keep", moved=1)
    hidden_one_more = case.reference(answer, prefill, kept, "keep", hide=0)
    assert logits.sub(wrong_places).abs().max() > 1e-1
    assert logits.sub(hidden_one_more).abs().max() > 5e-4


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_slices_that_lost_everything_take_their_markers_along(cases, name):
    case = cases(name)
    kept = torch.arange(case.view.total).view(case.layout.slices, -1)
    kept = torch.cat([kept[0], kept[2:].flatten()])
    prefill = case.prefill(kept, "keep")
    whole = case.prefill(torch.arange(case.view.total))
    assert prefill.text == whole.text
    assert prefill.markers + prefill.dropped == whole.markers
    assert (prefill.dropped > 0) == bool(case.family.markers(case.layout).opening[0])
    answer = case.answer(prefill, 3)
    expected = case.reference(answer, prefill, kept, "keep")
    assert torch.stack(answer.logits)[:, 0].sub(expected).abs().max() < 1e-4


def test_beams_carry_deepstack_and_rotary_axes(cases):
    case = cases("qwen3_vl")
    prefill, wide = case.prefill(torch.arange(case.view.total)), {"num_beams": 3, "output_scores": True}
    stock = case.model.generate(**case.inputs, max_new_tokens=5, **PLAIN, **wide)
    ours = case.answer(prefill, 5, **wide)
    assert torch.equal(stock.sequences[:, -5:], ours.sequences)
    assert torch.equal(stock.sequences_scores, ours.sequences_scores)


def test_deepstack_levels_are_merged_like_the_features_and_each_has_its_layer(cases):
    case = cases("qwen3_vl")
    total, tokens = case.view.total, case.layout.tokens
    assign = torch.arange(total) % tokens  # every slice merged into the first
    weights = torch.rand(total, generator=torch.Generator().manual_seed(1))
    merged = apply_reduction(case.view, Reduction(torch.arange(tokens), assign, weights))
    for level, out in zip(
        (case.view.features, *case.view.deepstack), (merged.features, *merged.deepstack), strict=True
    ):
        by_hand = (level * weights.view(case.layout.slices, tokens, 1)).sum(0)
        torch.testing.assert_close(out, by_hand, rtol=0, atol=1e-5)
    kept = random_tokens(case, 0.4)
    in_order = case.dropped_to(kept)
    reversed_ = replace(in_order, deepstack=in_order.deepstack[::-1])
    one, other = (
        torch.stack(
            case.answer(assembled(case.family, case.layout, some, QUESTION, PositionPolicy("keep"), Drop(1)), 3).logits
        )
        for some in (in_order, reversed_)
    )
    assert one.sub(other).abs().max() > 1e-2


def test_an_experts_width_is_what_a_token_visits(cases):
    assert cases("qwen3_vl_moe").family.shape.mlp_width == 2 * 48


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_a_family_tells_how_many_numbers_its_rows_have(cases, name):
    family, layout = cases(name).family, cases(name).layout
    assert len(family.position_rows(family.prompt(QUESTION, layout), layout)) == family.position_axes
