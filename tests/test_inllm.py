# SPDX-License-Identifier: Apache-2.0
"""The in-LLM stage against things we did not write: the stock model's own logits, and a slow masked reference."""

from __future__ import annotations

import inspect
import threading

import pytest
import torch
from conftest import ROOT
from tiny import masked_reference, tiny_model

from vidcomp.core.library import CACHE, SUPPORTED
from vidcomp.engine.decoder import Attachment, CompressedCache, RowPlan
from vidcomp.errors import ModelError, UsageError
from vidcomp.schedules import Cut, Schedule, get_schedule
from vidcomp.schedules.base import best_rows, scaled_layer
from vidcomp.schedules.holitom import HolitomInner

BEFORE, VISUAL, AFTER, STEPS = 5, 40, 6, 5


class Drop(Schedule):
    """Keeps the highest scores at the given layers, merges nothing."""

    name = "drop"

    def __init__(self, *layers: int, keep: float = 0.5) -> None:
        self.at, self.keep = layers, keep

    def layers(self, depth):
        return self.at

    def reduce(self, stage):
        return Cut(best_rows(stage.looked_at(), max(1, round(stage.count * self.keep))))


def sequence(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(BEFORE + VISUAL + AFTER, model.config.text_config.hidden_size, generator=generator)
    flags = torch.zeros(len(rows), dtype=torch.bool)
    flags[BEFORE : BEFORE + VISUAL] = True
    return rows, flags


def run(model, rows, flags, schedule=None, positions=None, facts=None, **settings):
    text = model.config.text_config
    cache = CompressedCache(text, RowPlan(flags, text.num_hidden_layers, schedule, facts or {}))
    positions = torch.arange(len(rows))[None] if positions is None else positions
    settings = {"max_new_tokens": STEPS, "do_sample": False, **settings}
    with Attachment(model):
        out = model.generate(
            inputs_embeds=rows[None],
            position_ids=positions,
            attention_mask=torch.ones(1, len(rows), dtype=torch.long),
            past_key_values=cache,
            output_logits=True,
            return_dict_in_generate=True,
            **settings,
        )
    return out, cache


def with_answer(model, rows, positions, tokens):
    """The same rows with the generated tokens teacher-forced behind them."""
    fed = model.get_input_embeddings()(tokens[:-1])
    steps = positions[0, -1] + 1 + torch.arange(len(fed))
    return torch.cat([rows, fed]), torch.cat([positions, steps[None]], 1)


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_without_a_schedule_every_logit_is_the_stock_models(attn):
    model = tiny_model(attn)
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randn(1, 4, 3, 54, 54, generator=generator)
    ids = torch.tensor([[5, 6, 7, *[291] * 101, 11, 12, 13]])
    stock = model.generate(
        input_ids=ids, pixel_values_videos=pixels, attention_mask=torch.ones_like(ids), max_new_tokens=8,
        do_sample=False, output_logits=True, return_dict_in_generate=True,
    )  # fmt: skip
    with torch.no_grad():
        rows = model.get_input_embeddings()(ids)[0].clone()
        features = model.model.get_video_features(pixels, return_dict=True).pooler_output[0, :100]
        rows[ids[0] == 291] = torch.cat([features, model.model.image_newline[None]])  # 5.17 adds it later, in forward
    ours, _ = run(model, rows, ids[0] == 291, max_new_tokens=8)
    assert all(torch.equal(a, b) for a, b in zip(stock.logits, ours.logits, strict=True))
    assert ours.sequences[0].tolist() == stock.sequences[0, ids.shape[1] :].tolist()


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("layers", [(1,), (3,), (5,), (1, 3, 4)])
@pytest.mark.parametrize("gaps", [False, True])
def test_dropped_rows_equal_the_masked_reference(attn, layers, gaps):
    model = tiny_model(attn)
    rows, flags = sequence(model)
    positions = torch.arange(len(rows))[None]
    if gaps:
        positions = positions + torch.arange(len(rows)).clamp(max=20) * 2
    out, cache = run(model, rows, flags, Drop(*layers), positions)
    full, places = with_answer(model, rows, positions, out.sequences[0])
    kept = {layer: visible_rows(cache, layer, flags, len(full)) for layer in layers}
    expected = masked_reference(model, full, places, kept)[len(rows) - 1 :]
    assert torch.stack(out.logits)[:, 0].sub(expected).abs().max() < 1e-4


def visible_rows(cache, layer, flags, length):
    text = (~flags).nonzero()[:, 0]
    answer = torch.arange(len(flags), length)
    return torch.cat([text, cache.measured.survivors[layer][0], answer])


def test_the_reference_can_fail():
    model = tiny_model()
    rows, flags = sequence(model)
    out, cache = run(model, rows, flags, Drop(3))
    positions = torch.arange(len(rows))[None]
    full, places = with_answer(model, rows, positions, out.sequences[0])
    logits = torch.stack(out.logits)[:, 0]
    kept = visible_rows(cache, 3, flags, len(full))
    hidden_one_more = masked_reference(model, full, places, {3: kept[kept != cache.measured.survivors[3][0, 0]]})
    wrong_places = masked_reference(model, full, places * 2, {3: kept})
    assert logits.sub(hidden_one_more[len(rows) - 1 :]).abs().max() > 1e-3
    assert logits.sub(wrong_places[len(rows) - 1 :]).abs().max() > 1e-1


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize(("k", "r"), [(1, 0.5), (3, 0.5), (4, 0.8)])
def test_holitom_inner_equals_a_reference_that_merges_one_row_after_the_other(attn, k, r):
    model = tiny_model(attn)
    rows, flags = sequence(model)
    out, cache = run(model, rows, flags, HolitomInner(k=k, r=r))
    kept = cache.measured.survivors[k][0]
    assert len(kept) == round(VISUAL * (1 - r))

    def merged(hidden):
        dropped = [i for i in range(BEFORE, BEFORE + VISUAL) if i not in kept.tolist()]
        unit = torch.nn.functional.normalize(hidden, dim=-1)
        target = {i: kept[(unit[kept] @ unit[i]).argmax()].item() for i in dropped}
        values = {int(i): hidden[i].clone() for i in kept}
        for i in dropped:
            values[target[i]] = (values[target[i]] + hidden[i]) / 2
        return torch.stack([values[int(i)] for i in kept])

    positions = torch.arange(len(rows))[None]
    full, places = with_answer(model, rows, positions, out.sequences[0])
    visible = {k: visible_rows(cache, k, flags, len(full))}
    expected = masked_reference(model, full, places, visible, {k: (kept, merged)})[len(rows) - 1 :]
    assert torch.stack(out.logits)[:, 0].sub(expected).abs().max() < 1e-4


def test_the_kept_rows_are_those_that_the_last_row_looks_at_most():
    model = tiny_model("eager")
    rows, flags = sequence(model)
    _, cache = run(model, rows, flags, Drop(2))
    weights = model.get_decoder()(inputs_embeds=rows[None], output_attentions=True).attentions[1]
    scores = weights[0, :, -1].mean(0)[flags]
    top = scores.argsort(dim=0, descending=True)[: VISUAL // 2].sort().values + BEFORE
    assert cache.measured.survivors[2][0].tolist() == top.tolist()


def test_the_cache_is_really_shorter_from_the_layer_on():
    model = tiny_model()
    rows, flags = sequence(model)
    _, cache = run(model, rows, flags, HolitomInner(k=3))
    written = STEPS - 1  # the last token is never fed
    full, short = len(rows) + written, len(rows) - VISUAL // 2 + written
    assert [layer.keys.shape[2] for layer in cache.layers] == [full] * 3 + [short] * 3
    assert [layer.values.shape[2] for layer in cache.layers] == [full] * 3 + [short] * 3
    assert cache.measured.entered == dict(enumerate([len(rows)] * 3 + [len(rows) - VISUAL // 2] * 3))


@pytest.mark.parametrize("settings", [{"num_beams": 3}, {"do_sample": True, "top_p": 0.9, "num_return_sequences": 2}])
def test_beams_and_samples_equal_stock_without_a_schedule(settings):
    model = tiny_model()
    rows, flags = sequence(model)
    torch.manual_seed(0)
    stock = model.generate(inputs_embeds=rows[None], max_new_tokens=STEPS, **settings)
    torch.manual_seed(0)
    ours, _ = run(model, rows, flags, **settings)
    assert torch.equal(stock, ours.sequences)


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_the_score_of_a_beam_is_the_references_log_probability(attn):
    model = tiny_model(attn)
    rows, flags = sequence(model)
    out, cache = run(model, rows, flags, Drop(3), num_beams=3, output_scores=True)
    best = out.sequences[0]
    full, places = with_answer(model, rows, torch.arange(len(rows))[None], best)
    kept = {3: visible_rows(cache, 3, flags, len(full))}
    logits = masked_reference(model, full, places, kept)[len(rows) - 1 :]
    expected = logits.log_softmax(-1).gather(1, best[:, None]).mean()
    torch.testing.assert_close(out.sequences_scores[0], expected, rtol=0, atol=1e-4)


def test_hooks_ignore_other_caches_and_leave_no_trace():
    model = tiny_model()
    rows, _ = sequence(model)
    before = model.generate(inputs_embeds=rows[None], max_new_tokens=STEPS, do_sample=False)
    attachment = Attachment(model)
    assert hooks_on(model) > 0  # so the count below can fail
    during = model.generate(inputs_embeds=rows[None], max_new_tokens=STEPS, do_sample=False)
    attachment.remove()
    assert hooks_on(model) == 0
    assert torch.equal(before, during)


def hooks_on(model):
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules())


def test_two_threads_with_their_own_caches_do_not_disturb_each_other():
    model = tiny_model()
    jobs = [(sequence(model, seed), HolitomInner(k=k)) for seed, k in ((1, 2), (2, 4))]
    alone = [run(model, *pair, schedule)[0].sequences for pair, schedule in jobs]
    together: dict[int, torch.Tensor] = {}
    with Attachment(model):

        def work(number):
            (rows, flags), schedule = jobs[number]
            cache = CompressedCache(model.config.text_config, RowPlan(flags, 6, schedule))
            together[number] = model.generate(
                inputs_embeds=rows[None], position_ids=torch.arange(len(rows))[None], past_key_values=cache,
                attention_mask=torch.ones(1, len(rows), dtype=torch.long), max_new_tokens=STEPS, do_sample=False,
            )  # fmt: skip

        threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
    assert all(torch.equal(alone[number], together[number]) for number in range(2))


def test_cropping_restores_the_prefix():
    model = tiny_model("eager")
    rows, flags = sequence(model)
    cache = CompressedCache(model.config.text_config, RowPlan(flags, 6, HolitomInner(k=3)))
    ids = torch.tensor([[9, 10, 11]])
    with Attachment(model), torch.no_grad():
        model.get_decoder()(inputs_embeds=rows[None], position_ids=torch.arange(len(rows))[None], past_key_values=cache)
        lengths = cache.lengths()
        places = torch.arange(len(rows), len(rows) + 3)[None]
        settings = dict(position_ids=places, attention_mask=torch.ones(1, len(rows) + 3), past_key_values=cache)
        one = model.get_decoder()(input_ids=ids, **settings).last_hidden_state
        cache.crop(-3)
        assert cache.lengths() == lengths
        cache.crop(0)
        assert cache.lengths() == lengths
        assert torch.equal(model.get_decoder()(input_ids=ids, **settings).last_hidden_state, one)


def test_a_prefill_of_another_length_is_an_error():
    model = tiny_model()
    rows, flags = sequence(model)
    with pytest.raises(ModelError, match="the prefill holds"):
        run(model, rows[:-1], flags)


def renamed(model):
    """A release that calls its layers with another keyword, which their ``**kwargs`` swallow."""
    for layer in model.get_decoder().layers:
        layer.register_forward_pre_hook(
            lambda _, args, kwargs: (args, {"kv" if name == CACHE else name: kwargs[name] for name in kwargs}),
            with_kwargs=True,
        )


def without_attention(model):
    """An attention module that one layer calls past its hooks."""
    attention = model.get_decoder().layers[4].self_attn
    model.get_decoder().layers[4].self_attn = type("Direct", (torch.nn.Module,), {
        "__getattr__": lambda _, name: getattr(attention, name),
        "__call__": lambda _, **kwargs: attention.forward(**kwargs),
    })()  # fmt: skip


def other_keys(model):
    """Attention whose keys are not those that its projection makes when it is asked again."""
    for layer in model.get_decoder().layers:
        layer.self_attn.k_proj.register_forward_hook(lambda _, args, output: torch.randn_like(output))


def checkpointing(model):
    """Layers that recompute in the backward pass take no cache."""
    model.train()
    model.gradient_checkpointing_enable()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (renamed, "not seen in 6 layers"),
        (without_attention, r"not seen in 1 layers \(attention\)"),
        (other_keys, "is not what its projections say"),
        (checkpointing, "gradient checkpointing takes the cache away"),
    ],
)
def test_hooks_that_a_model_does_not_reach_are_found_before_it_is_used(change, words):
    model = tiny_model()
    change(model)
    clean = hooks_on(model)
    with pytest.raises(ModelError, match=words):
        Attachment(model)
    assert hooks_on(model) == clean


def compiled(model):
    for layer in model.get_decoder().layers:
        layer.compile(backend="eager")


def placed(model):
    """As a device map leaves a model: hooks on every module that move what comes in."""
    accelerate = pytest.importorskip("accelerate")
    accelerate.dispatch_model(model, {"": "cpu"}, main_device="cpu", force_hooks=True)


def offloaded(model):
    """Weights that live elsewhere until their module runs."""
    accelerate = pytest.importorskip("accelerate")
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"))


@pytest.mark.parametrize("change", [compiled, placed, offloaded])
def test_hooks_are_reached_however_the_layers_are_run(change):
    model = tiny_model()
    rows, flags = sequence(model)
    expected = run(model, rows, flags, HolitomInner(k=2))[0].sequences
    change(model)
    assert torch.equal(run(model, rows, flags, HolitomInner(k=2))[0].sequences, expected)


def test_the_cache_goes_under_the_name_that_the_installed_layers_know():
    model = tiny_model()
    assert CACHE in inspect.signature(type(model.get_decoder().layers[0]).forward).parameters
    assert CACHE in inspect.signature(type(model).forward).parameters


def test_the_supported_releases_are_those_of_the_requirement():
    first, last = SUPPORTED.split(" up to ")
    above = f"5.{int(last.split('.')[1]) + 1}"
    text = (ROOT / "pyproject.toml").read_text()
    assert f'"transformers>={first},<{above}"' in text
    script = (ROOT / ".ci" / "run").read_text()
    assert f"on_release {first} " in script and f"on_release {last}\n" in script


def test_unsupported_kernels_and_layers_are_refused():
    model = tiny_model()
    model.config.get_text_config()._attn_implementation = "flex_attention"
    with pytest.raises(ModelError, match="flex_attention"):
        Attachment(model)
    model = tiny_model()
    model.config.get_text_config().layer_types = ["full_attention", "linear_attention"] * 3
    with pytest.raises(ModelError, match="linear_attention"):
        Attachment(model)


@pytest.mark.parametrize(("depth", "layer"), [(28, 18), (4, 3), (24, 15), (80, 51), (2, 1)])
def test_the_papers_layer_scales_with_depth(depth, layer):
    assert scaled_layer(18, 28, depth) == layer
    assert HolitomInner().layers(depth) == (layer,)


def test_schedules_by_name():
    assert get_schedule("holitom", k=2, r=0.25) == HolitomInner(2, 0.25)
    for bad in ({"k": 0}, {"r": 1.0}, {"what": 1}):
        with pytest.raises(UsageError):
            get_schedule("holitom", **bad)
    with pytest.raises(UsageError, match="fastw"):
        get_schedule("fastw")
    with pytest.raises(ValueError, match="28"):
        HolitomInner(k=28).layers(28)
