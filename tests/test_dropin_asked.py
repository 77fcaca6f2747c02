# SPDX-License-Identifier: Apache-2.0
"""What else a user may ask of a model inside a compress block: each is right in every family, or refused with the true
reason."""

from __future__ import annotations

import re
from functools import cache

import pytest
import torch
from families import FAMILY_NAMES, checkpoint, load, moving_square, stock_inputs
from tiny import masked_reference

import vidcomp
from vidcomp.core.library import CACHE
from vidcomp.engine import attach
from vidcomp.engine.outer import view_of
from vidcomp.errors import NotApplied, UsageError

FAMILIES = tuple(name for name in FAMILY_NAMES if name not in ("qwen2_5_vl_tied", "internvl3_5", "smolvlm2_2b"))
SETTINGS = dict(method="uniform", keep=0.5, inner="none", positions="keep")
GREEDY = dict(do_sample=False, repetition_penalty=1.0, temperature=None, top_p=None, top_k=None, max_new_tokens=3)
PICTURE_TEXT = {"internvl": ("<img>", "</img>"),
                "smolvlm": ("<fake_token_around_image><global-img>", "<fake_token_around_image>")}  # fmt: skip


@pytest.fixture(scope="module")
def cases(replicas, tmp_path_factory):
    folder = tmp_path_factory.mktemp("siblings")
    return cache(lambda name: Case(load(checkpoint(replicas, folder, name))))


@pytest.fixture(params=FAMILIES)
def case(request, cases):
    return cases(request.param)


class Case:
    """A user with a model, and inputs for a video, a picture, or both."""

    def __init__(self, family):
        self.family, self.model = family, family.model
        self.clip = moving_square(2 * family.frames_per_slice)
        self.layout = family.layout([float(t) for t in range(len(self.clip))], *self.clip.shape[1:3], len(self.clip))
        self.inputs = stock_inputs(family, self.clip, self.layout)
        self.shared = family.frame_line is not None  # frames and pictures in one tensor

    @property
    def ids(self):
        return self.inputs["input_ids"][0]

    @property
    def picture(self):
        """The model's arguments for one picture, of which the ids are left out."""
        generator = torch.Generator().manual_seed(5)
        kind, frame = self.family.model_type, self.family.pixels(moving_square(1, seed=11))
        if self.shared:
            return {"pixel_values": frame if kind == "internvl" else frame[None]}
        if kind.startswith("llava"):
            tiles = torch.randn(1, 5, *frame.shape[1:], generator=generator)
            return {"pixel_values": tiles, "image_sizes": torch.tensor([[self.family.side * 2] * 2])}
        rows = torch.randn(16 * 4, self.inputs["pixel_values_videos"].shape[1], generator=generator)
        sizes = {"image_merge_sizes": torch.tensor([self.family.merge])} if kind == "video_llama_3" else {}
        return {"pixel_values": rows, "image_grid_thw": torch.tensor([[1, 8, 8]]), **sizes}

    @torch.no_grad()
    def picture_ids(self):
        token = self.family.visual_id if self.shared else self.model.config.image_token_id
        if self.shared:
            count, (before, after) = self.layout.tokens, PICTURE_TEXT[self.family.model_type]
            plain = (self.family.tokenizer(text, add_special_tokens=False).input_ids for text in (before, after))
            opening, closing = plain
            return torch.tensor([*opening, *[token] * count, *closing])
        features = self.model.base_model.get_image_features(**self.picture, return_dict=True).pooler_output
        return torch.tensor([9, *[token] * sum(len(rows.flatten(0, -2)) for rows in features), 8])

    def of(self, ids, pictures=False, videos=1):
        """The arguments for these ids: the picture, the video, or both in the order of the prompt."""
        inputs = {"input_ids": ids[None], "attention_mask": torch.ones_like(ids)[None]}
        own = {name: value for name, value in self.inputs.items() if name not in ("input_ids", "attention_mask")}
        if self.shared:
            first = int((ids == self.family.visual_id).nonzero()[0]) < 6  # of the picture, if it stands in front
            parts = [self.picture["pixel_values"]] if pictures else []
            parts = [*parts, *[own["pixel_values"]] * videos] if first else [*[own["pixel_values"]] * videos, *parts]
            return {**inputs, "pixel_values": torch.cat(parts, 0 if self.family.model_type == "internvl" else 1)}
        names = {"video_grid_thw", "pixel_values_videos", "video_merge_sizes", "second_per_grid_ts"}
        taken = {name: torch.cat([value] * videos) for name, value in own.items() if name in names and videos}
        if "mm_token_type_ids" in own:
            image = (ids == self.model.config.image_token_id).int()
            taken["mm_token_type_ids"] = ((ids == self.family.visual_id).int() * 2 + image)[None]
        return {**inputs, **taken, **(self.picture if pictures else {})}

    def beside(self, where):
        """A picture in front of the video or behind it."""
        picture, ids = self.picture_ids(), self.ids
        at = 1 if where == "in front" else len(ids) - 3
        return self.of(torch.cat([ids[:at], picture, ids[at:]]), pictures=True)

    @torch.no_grad()
    def decoder_call(self, inputs):
        """What the stock model hands its decoder."""
        seen = []
        handle = self.model.get_decoder().register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs),
                                                                    with_kwargs=True)  # fmt: skip
        self.model(**inputs)
        handle.remove()
        return seen[0]

    def reference(self, inputs, held):
        """Logits [S, V] of the whole prompt with the rows hidden that the cache does not hold, layer by layer."""
        call, full = self.decoder_call(inputs), held._kept
        rows = call["inputs_embeds"][0]
        positions = call.get("position_ids")
        positions = torch.arange(len(rows))[None] if positions is None else positions[-3:]
        cut = ((number, layer.columns) for number, layer in enumerate(held.layers) if layer.columns is not None)
        kept = {0: full} | {number: full[columns[0]] for number, columns in cut}
        masks = call.get("visual_pos_masks")
        places = masks[0].nonzero()[:, 0] if masks is not None else None
        added = [(places, level) for level in call.get("deepstack_visual_embeds") or ()]
        return masked_reference(self.model, rows, positions, kept, added=added)


# -- pictures beside the video


@pytest.mark.parametrize("inner", ["none", "fastv:k=2"])
@pytest.mark.parametrize("where", ["in front", "behind"])
def test_a_picture_beside_the_video_stays_whole(case, where, inner):
    inputs = case.beside(where)
    with torch.no_grad(), vidcomp.attach(case.model, **{**SETTINGS, "inner": inner}) as run:
        out = case.model(**inputs)
    total = case.layout.slices * case.layout.tokens
    (ledger,) = run.ledgers
    assert (ledger.tokens.uncompressed, ledger.tokens.kept) == (total, total // 2)
    held = out[CACHE]
    gone = torch.ones(inputs["input_ids"].shape[1], dtype=torch.bool).index_fill_(0, held._kept, False)
    assert int(gone.sum()) == total - total // 2
    assert (inputs["input_ids"][0][gone] == case.family.visual_id).all()
    expected = case.reference(inputs, held)[-1]
    torch.testing.assert_close(out.logits[0, -1], expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize("method", ["holitom"])
def test_signals_are_those_of_the_frames(case, method, monkeypatch):
    """A picture in the same pass of the tower must not shift them."""
    views = []
    monkeypatch.setattr(attach, "view_of", lambda *args: views.append(view_of(*args)) or views[-1])
    for inputs in (case.inputs, case.beside("in front")):
        with torch.no_grad(), vidcomp.attach(case.model, method=method, keep=0.5, positions="keep"):
            case.model(**inputs)
    alone, beside = views
    torch.testing.assert_close(beside.features, alone.features, rtol=0, atol=1e-4)
    torch.testing.assert_close(beside.salience, alone.salience, rtol=0, atol=1e-5)


def test_a_picture_alone_is_left_alone(case):
    inputs = case.of(torch.cat([torch.tensor([5]), case.picture_ids(), torch.tensor([6, 7])]), pictures=True, videos=0)
    with torch.no_grad():
        stock = case.model(**inputs).logits
        with vidcomp.attach(case.model, **SETTINGS) as run:
            assert torch.equal(case.model(**inputs).logits, stock)
    assert run.ledgers == []


# -- what is refused


def two_videos(case):
    case.model.generate(**case.of(torch.cat([case.ids, case.ids]), videos=2), **GREEDY)


def two_prompts(case):
    pixels = next(name for name in case.inputs if name.startswith("pixel"))
    inputs = {name: torch.cat([value, value]) for name, value in case.inputs.items()}
    inputs[pixels][len(inputs[pixels]) // 2 :] *= 0.5
    case.model(**inputs)


def embeds(case):
    case.model.generate(inputs_embeds=case.model.get_input_embeddings()(case.inputs["input_ids"]), **GREEDY)


def embeds_and_pixels(case):
    inputs = {name: value for name, value in case.inputs.items() if name != "input_ids"}
    case.model(inputs_embeds=case.model.get_input_embeddings()(case.inputs["input_ids"]), **inputs)


def labels(case):
    case.model(**case.inputs, labels=case.inputs["input_ids"])


def pieces(case):
    case.model.generate(**case.inputs, **GREEDY, prefill_chunk_size=16)


REFUSED = [
    (two_videos, UsageError, "2 videos in a prompt|not those of one whole video"),
    (two_prompts, UsageError, "batch of 2 different prompts"),
    (embeds, UsageError, "given as inputs_embeds"),
    (embeds_and_pixels, UsageError, "given as inputs_embeds"),
    (labels, UsageError, "labels beside a video"),
    (pieces, (UsageError, NotApplied, ValueError), "prefill_chunk_size|[Cc]hunked prefill"),  # or by the library
]


@pytest.mark.parametrize(("ask", "kind", "words"), REFUSED, ids=[row[0].__name__ for row in REFUSED])
def test_what_cannot_be_compressed_is_refused_with_the_reason(case, ask, kind, words):
    with torch.no_grad(), vidcomp.attach(case.model, **SETTINGS) as run:
        with pytest.raises(kind) as caught:
            ask(case)
        case.model(**case.inputs)  # the block goes on
    assert re.search(words, str(caught.value)), str(caught.value)
    assert len(run.ledgers) == 1


def test_a_tower_that_ran_for_nothing_is_an_error_when_the_block_ends(case):
    with (
        pytest.raises(NotApplied, match="ran 1 times for nothing"),
        torch.no_grad(),
        vidcomp.attach(case.model, **SETTINGS),
    ):
        case.family.encode(case.clip, frozenset(), case.layout)
    with torch.no_grad(), vidcomp.attach(case.model, keep=1.0):  # the plain model owes nothing
        case.family.encode(case.clip, frozenset(), case.layout)


def test_a_cache_that_leaves_the_block_says_so(case):
    with vidcomp.attach(case.model, **SETTINGS):
        first = case.model.generate(**case.inputs, **GREEDY, return_dict_in_generate=True)
    ids = torch.cat([first.sequences, torch.tensor([[9, 8]])], 1)
    with pytest.raises(NotApplied, match="without the compressor"):
        case.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **{CACHE: first[CACHE]}, **GREEDY)


# -- what is right


def test_gradients_reach_the_embeddings_and_the_tower(case):
    weights = [case.model.get_input_embeddings().weight, next(case.family.tower.parameters())]

    def slopes(logits):
        loss = logits[0, -1, :50].sum() if logits.dim() == 3 else logits[-1, :50].sum()
        return torch.autograd.grad(loss, weights)

    with vidcomp.attach(case.model, **SETTINGS):
        out = case.model(**case.inputs)
        found = slopes(out.logits)
    hidden = torch.zeros_like(case.inputs["attention_mask"]).index_fill_(1, out[CACHE]._kept, 1)
    handle = case.model.get_decoder().register_forward_pre_hook(
        lambda _, args, kwargs: (args, {**kwargs, "attention_mask": hidden}), with_kwargs=True
    )
    expected = slopes(case.model(**case.inputs).logits)
    handle.remove()
    for mine, other in zip(found, expected, strict=True):
        assert other.abs().max() > 0
        assert (mine - other).abs().max() <= 1e-3 * other.abs().max() + 1e-6


def test_a_peft_model_is_compressed_with_its_adapter(case, replicas):
    peft = pytest.importorskip("peft")
    model = load(checkpoint(replicas, None, "qwen3_vl")).model if case.family.model_type == "qwen3_vl" else None
    if model is None:
        pytest.skip("wrapping is the same in every family")
    with vidcomp.attach(model, **SETTINGS):
        plain = model(**case.inputs).logits
    tuned = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    tuned.eval()
    with vidcomp.attach(tuned, **SETTINGS) as run:
        logits = tuned(**case.inputs).logits
        tuned.generate(**case.inputs, **GREEDY)
    assert len(run.ledgers) == 2
    with vidcomp.attach(tuned.get_base_model(), **SETTINGS):
        assert torch.equal(tuned(**case.inputs).logits, logits)
    assert logits.shape == plain.shape
    assert (logits - plain).abs().max() > 1e-2


def test_what_the_caller_would_not_expect_is_noted(case):
    with torch.no_grad(), vidcomp.attach(case.model, **SETTINGS) as run:
        out = case.model(**case.inputs)
    assert run.ledgers[0].notes == [
        f"the logits have {out.logits.shape[1]} rows for {len(case.ids)} ids; count from the last one"
    ]
