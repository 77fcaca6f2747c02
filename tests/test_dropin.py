# SPDX-License-Identifier: Apache-2.0
"""vidcomp.attach on a user's own stock model: equal to the explicit route, and no trace of it afterwards."""

from __future__ import annotations

import threading
from functools import cache

import pytest
import torch
from families import QUESTION, checkpoint, load, moving_square, stock_inputs
from transformers import StaticCache

import vidcomp
from vidcomp.config import OuterConfig
from vidcomp.core.tokens import TokenView
from vidcomp.engine.decoder import Attachment
from vidcomp.engine.outer import reduced
from vidcomp.engine.positions import PositionPolicy
from vidcomp.engine.prefill import assembled
from vidcomp.errors import ModelError, UsageError
from vidcomp.families import adapter_of
from vidcomp.methods.holitom import Holitom
from vidcomp.schedules import get_schedule
from vidcomp.spans import every_frame
from vidcomp.tower.probe import attention_of, encoder_layers

FAMILIES = (
    "llava_onevision_tied",
    "llava_next_video",
    "qwen2_5_vl",
    "qwen3_vl",
    "internvl3",
    "smolvlm2",
    "video_llama_3",
)
LOGITS = dict(output_logits=True, return_dict_in_generate=True)
GREEDY = dict(do_sample=False, repetition_penalty=1.0, temperature=None, top_p=None, top_k=None, max_new_tokens=3)


@pytest.fixture(scope="module")
def cases(replicas, tmp_path_factory):
    folder = tmp_path_factory.mktemp("siblings")
    return cache(lambda name, attn="sdpa": Case(load(checkpoint(replicas, folder, name), attn)))


@pytest.fixture
def case(cases):
    """The family in which hooks, beams, threads and caches are tried: three rotary axes, DeepStack, markers."""
    return cases("qwen3_vl")


class Case:
    """A user with a model and the processor's inputs."""

    def __init__(self, family):
        self.family, self.model = family, family.model
        self.clip = moving_square(2 * family.frames_per_slice + 1)
        times = [float(second) for second in range(len(self.clip))]
        self.layout = family.layout(times, *self.clip.shape[1:3], float(len(times)))
        self.inputs = stock_inputs(family, self.clip, self.layout)

    def answer(self, **settings):
        return self.model.generate(**self.inputs, **{**GREEDY, **LOGITS, **settings})

    def explicit(self, method, keep, inner, positions):
        """The same through the pipeline's own assembly."""
        chosen = vidcomp.get_method(method)
        encoded = self.family.encode(self.clip, frozenset(chosen.needs), self.layout)
        times = torch.tensor(self.layout.times, dtype=torch.float64)
        view = TokenView(encoded.features, self.layout.grid, times, deepstack=encoded.deepstack, **encoded.signals)
        config = OuterConfig(method=method, keep=keep, positions=positions)
        _, tokens = reduced(view, every_frame(self.layout.slices), chosen, config)
        schedule = None if inner == "none" else get_schedule("holitom", k=2)
        prefill = assembled(self.family, self.layout, tokens, QUESTION, PositionPolicy(positions), schedule)
        assert not prefill.dropped  # the drop-in never touches text
        with Attachment(self.model):
            out = self.model.generate(
                inputs_embeds=prefill.rows[None], position_ids=prefill.positions, past_key_values=prefill.cache,
                attention_mask=torch.ones(1, len(prefill.rows), dtype=torch.long), **GREEDY, **LOGITS,
            )  # fmt: skip
        return torch.stack(out.logits)

    def compressed(self, method="uniform", keep=0.5, inner="none", positions="keep", **settings):
        with vidcomp.attach(self.model, method=method, keep=keep, inner=inner, positions=positions):
            return self.answer(**settings)


def traces(model):
    """Everything that could be left on a model: hooks of every kind and attributes of every module."""
    hooks = [name for name in vars(model) if name.endswith("_hooks") or "_hooks_" in name]
    found = {}
    for name, module in model.named_modules():
        found[name] = ({kind: len(vars(module)[kind]) for kind in hooks}, frozenset(vars(module)), type(module))
    return found


# -- what it computes


@pytest.mark.parametrize(("name", "positions"), list(zip(FAMILIES, ["keep", "compact"] * 4, strict=False)))
def test_it_equals_the_explicit_route_and_leaves_every_bit_as_it_was(cases, name, positions):
    case = cases(name)
    settings = ("uniform", 0.7, "holitom:k=2", positions)
    before, clean = case.answer().logits, traces(case.model)
    expected = case.explicit(*settings)
    with vidcomp.attach(case.model, method="uniform", keep=0.7, inner="holitom:k=2", positions=positions):
        inside = case.answer().logits
        assert traces(case.model) != clean  # so the comparison below can fail
    assert (torch.stack(inside) - expected).abs().max() < 1e-5
    assert (torch.stack(before) - expected).abs().max() > 1e-2
    assert traces(case.model) == clean
    assert all(torch.equal(a, b) for a, b in zip(before, case.answer().logits, strict=True))


@pytest.mark.parametrize("name", ["llava_onevision_tied", "qwen2_5_vl", "internvl3"])
def test_methods_see_what_the_tower_tells_while_the_stock_model_runs_it(cases, name, monkeypatch):
    case, seen = cases(name), []
    call = vidcomp.methods.holitom.Holitom.__call__
    monkeypatch.setattr(
        vidcomp.methods.holitom.Holitom,
        "__call__",
        lambda self, view, keep: seen.append(view) or call(self, view, keep),
    )
    case.compressed("holitom")
    encoded = case.family.encode(case.clip, frozenset({"salience"}), case.layout)
    assert torch.equal(seen[0].features, encoded.features)
    assert torch.equal(seen[0].salience, encoded.signals["salience"])


@pytest.mark.parametrize(("name", "attn"), [("llava_onevision_tied", "sdpa"), ("qwen3_vl", "eager")])
def test_keep_1_is_the_plain_model_to_the_bit(cases, name, attn):
    case = cases(name, attn)
    stock = case.answer().logits
    inside = case.compressed(method="holitom", keep=1.0, inner="auto").logits
    assert all(torch.equal(a, b) for a, b in zip(stock, inside, strict=True))


def test_eager_and_sdpa_agree(cases):
    one, other = (cases("qwen3_vl", attn).compressed(inner="holitom:k=2").logits for attn in ("sdpa", "eager"))
    assert (torch.stack(one) - torch.stack(other)).abs().max() < 1e-4


def test_the_ledger_counts_what_the_decoder_read(case):
    rows = []
    layers = case.model.get_decoder().layers
    handles = [layer.register_forward_hook(lambda _, args, out: rows.append(out.shape[1])) for layer in layers]
    with vidcomp.attach(case.model, method="uniform", keep=0.5, inner="holitom:k=2") as run:
        assert rows == [1] * len(layers)  # the proof of the hooks
        rows.clear()
        case.answer(max_new_tokens=1)
    for handle in handles:
        handle.remove()
    (ledger,) = run.ledgers
    tokens, total = ledger.tokens, case.layout.slices * case.layout.tokens
    assert ledger.layer_rows == rows
    assert (tokens.uncompressed, tokens.kept, tokens.layer) == (total, total // 2, 2)
    assert tokens.sequence == case.inputs["input_ids"].shape[1] - total + total // 2 == rows[0]
    assert [stage.name for stage in ledger.stages] == ["compress", "llm layer 2"]


def test_a_prompt_without_a_video_is_left_alone(case):
    ids = torch.tensor([[5, 6, 7, 8]])
    stock = case.model.generate(input_ids=ids, **GREEDY, **LOGITS)
    with vidcomp.attach(case.model, keep=0.1) as run:
        inside = case.model.generate(input_ids=ids, **GREEDY, **LOGITS)
    assert all(torch.equal(a, b) for a, b in zip(stock.logits, inside.logits, strict=True))
    assert run.ledgers == []


# -- what generate does besides


@pytest.mark.parametrize("positions", ["keep", "compact"])
def test_sampling_beams_and_answers_without_a_cache(case, positions):
    settings = dict(method="uniform", keep=0.5, positions=positions)
    greedy = case.compressed(**settings).sequences
    assert torch.equal(case.compressed(**settings, use_cache=False).sequences, greedy)
    case.compressed(**settings, num_beams=3)
    two = case.compressed(**settings, num_return_sequences=2, do_sample=True, top_k=1).sequences
    assert torch.equal(two[:1], greedy)
    assert torch.equal(two[1:], greedy)


def test_one_beam_of_many_has_the_score_of_its_tokens(case):
    best = case.compressed(num_beams=3, output_scores=True)
    new = best.sequences[0, case.inputs["input_ids"].shape[1] :]
    inputs = dict(case.inputs)
    for name, fill in (("input_ids", None), ("attention_mask", 1), ("mm_token_type_ids", 0)):
        more = new[None, :-1] if fill is None else torch.full((1, len(new) - 1), fill)
        inputs[name] = torch.cat([inputs[name], more.to(inputs[name])], 1)
    with torch.no_grad(), vidcomp.attach(case.model, method="uniform", keep=0.5, inner="none", positions="keep"):
        logits = case.model(**inputs).logits[0, -len(new) :]
    score = logits.log_softmax(-1).gather(1, new[:, None]).mean()
    torch.testing.assert_close(best.sequences_scores[0], score, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "positions"), [("llava_onevision_tied", "keep"), ("qwen3_vl", "compact"), ("qwen2_5_vl", "keep")]
)
def test_a_conversation_goes_on_over_the_returned_cache(cases, name, positions):
    case = cases(name)
    more = torch.tensor([[9, 8, 7]])
    settings = dict(method="uniform", keep=0.5, inner="none", positions=positions)
    with vidcomp.attach(case.model, **settings):
        first = case.answer()
        ids = torch.cat([first.sequences, more], 1)
        second = case.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            past_key_values=first.past_key_values,
            **GREEDY,
            **LOGITS,
        )
    inputs = dict(case.inputs)
    extra = ids[:, inputs["input_ids"].shape[1] :]
    for key, fill in (("attention_mask", 1), ("mm_token_type_ids", 0)):
        if key in inputs:
            inputs[key] = torch.cat([inputs[key], torch.full_like(extra, fill)], 1)
    inputs["input_ids"] = ids
    with vidcomp.attach(case.model, **settings):
        at_once = case.model.generate(**inputs, **GREEDY, **LOGITS)
    assert (torch.stack(second.logits) - torch.stack(at_once.logits)).abs().max() < 1e-4


def test_threads_with_caches_of_their_own_do_not_disturb_each_other(cases):
    case, other = cases("llava_onevision_tied"), cases("qwen3_vl")
    clips = [moving_square(3, seed=seed) for seed in range(3)]
    jobs = [stock_inputs(case.family, clip, case.layout) for clip in clips]
    settings = dict(method="holitom", keep=0.3, inner="holitom:k=2")
    alone = []
    for inputs in jobs:
        with vidcomp.attach(case.model, **settings):
            alone.append(case.model.generate(**inputs, **GREEDY))
    together = {}
    with vidcomp.attach(case.model, **settings), vidcomp.attach(other.model, keep=0.5):

        def work(number):
            together[number] = case.model.generate(**jobs[number], **GREEDY)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
        [thread.start() for thread in threads]
        other.answer()
        [thread.join() for thread in threads]
    assert all(torch.equal(together[number], alone[number]) for number in range(3))


# -- no trace


def test_one_hook_on_any_module_would_be_found(case):
    clean = traces(case.model)
    kinds = ("register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook")
    for module in list(case.model.modules())[:: len(list(case.model.modules())) // 7]:
        for kind in kinds:
            handle = getattr(module, kind)(lambda *_: None)
            assert traces(case.model) != clean
            handle.remove()
            if "backward" in kind:
                module._is_full_backward_hook = None
    case.model.stray = 1
    assert traces(case.model) != clean
    del case.model.stray
    assert traces(case.model) == clean


class Boom(Exception):
    pass


def probed(family):
    """The attention module of the tower whose config the probe swaps."""
    return attention_of(encoder_layers(family.tower)[family.last_layer])


@pytest.mark.parametrize("where", ["block", "method", "tower", "layer"])
@pytest.mark.parametrize("name", ["qwen3_vl"])
def test_an_exception_anywhere_leaves_nothing_either(cases, name, where, monkeypatch):
    case = cases(name)
    before, clean = case.answer().logits, traces(case.model)

    def boom(*_, **__):
        raise Boom

    with monkeypatch.context() as patch, pytest.raises(Boom), vidcomp.attach(case.model, method="holitom", keep=0.3):
        if where == "method":
            patch.setattr(Holitom, "__call__", boom)
        elif where == "tower":
            patch.setattr(type(probed(case.family)), "forward", boom)
        elif where == "layer":
            patch.setattr(type(case.model.get_decoder().layers[3].mlp), "forward", boom)
        case.answer()
        boom()
    assert traces(case.model) == clean
    assert type(probed(case.family).config).__name__ != "_InterceptedConfig"
    assert all(torch.equal(a, b) for a, b in zip(before, case.answer().logits, strict=True))
    with vidcomp.attach(case.model, keep=0.3):  # no lock is held either
        case.answer()


# -- what it refuses


def test_refusals_say_what_to_do(case):
    batch = {key: torch.cat([value, value]) for key, value in case.inputs.items()}
    batch["pixel_values_videos"][-5:] += 1
    with vidcomp.attach(case.model, keep=0.5):
        with pytest.raises(UsageError, match="batch of 2 different prompts"):
            case.model.generate(**batch, **GREEDY)
        with pytest.raises(UsageError, match="being compressed already"), vidcomp.attach(case.model, keep=0.2):
            pass
        text = case.model.config.get_text_config()
        with pytest.raises(UsageError, match="StaticCache"):
            case.answer(past_key_values=StaticCache(config=text, max_cache_len=512))
        first = case.answer()
        with pytest.raises(UsageError, match="a second video in a compressed conversation"):
            ids = torch.cat([first.sequences, case.inputs["input_ids"]], 1)
            case.model(input_ids=ids, past_key_values=first.past_key_values)
    with pytest.raises(ModelError, match="supported families: "):
        vidcomp.attach(case.model.get_decoder())
    with pytest.raises(UsageError, match="--keep 2"):
        vidcomp.attach(case.model, keep=2)
    with pytest.raises(UsageError, match="needs a decoder of more than 99"):
        vidcomp.attach(case.model, inner="holitom:k=99")


def test_two_videos_in_a_prompt_are_refused(case):
    ids, grid = case.inputs["input_ids"], case.inputs["video_grid_thw"]
    inputs = {
        "input_ids": torch.cat([ids, ids], 1), "attention_mask": torch.ones(1, 2 * ids.shape[1], dtype=torch.long),
        "pixel_values_videos": case.inputs["pixel_values_videos"].repeat(2, 1),
        "video_grid_thw": grid.repeat(2, 1), "mm_token_type_ids": case.inputs["mm_token_type_ids"].repeat(1, 2),
    }  # fmt: skip
    with vidcomp.attach(case.model, keep=0.5), pytest.raises(UsageError, match="2 videos in a prompt"):
        case.model.generate(**inputs, **GREEDY)


def test_a_model_that_is_held_elsewhere_is_refused(nano):
    with pytest.raises(UsageError, match="being compressed already"), vidcomp.attach(nano.family.model):
        pass


def test_an_adapter_without_a_tokenizer_knows_the_visual_id(cases):
    for name in FAMILIES:
        family = cases(name).family
        assert adapter_of(family.model).visual_id == family.tokenizer.convert_tokens_to_ids(family.visual)
