# SPDX-License-Identifier: Apache-2.0
"""Layers on several devices, as a device map leaves them: every index follows the rows to the device of their layer."""

from __future__ import annotations

import pytest
import torch
from places import Elsewhere, move, place, strict
from test_inllm import sequence
from tiny import tiny_model

from vidcomp.config import ModelConfig
from vidcomp.core.library import CACHE
from vidcomp.engine.decoder import Attachment, CompressedCache, PrefixCache, RowPlan
from vidcomp.errors import ModelError, UsageError
from vidcomp.hub import pick_device
from vidcomp.schedules import get_schedule

FIRST, SECOND = torch.device("cuda:0"), torch.device("cuda:1")
SCHEDULES = ("holitom:k=3", "fastv:k=3", "pyramiddrop", "shortv", "dycoke", "holitom:k=4", "framefusion", "aim")


def spread(model):
    """The first half of the layers on one device, the rest on another."""
    decoder = model.get_decoder()
    place(decoder.embed_tokens, FIRST), place(decoder.rotary_emb, FIRST), place(decoder.norm, SECOND)
    for index, layer in enumerate(decoder.layers):
        place(layer, FIRST if index < 3 else SECOND)


def named(spec, frames=4):
    name, _, rest = spec.partition(":")
    return get_schedule(
        name, **{key: int(value) for key, value in (pair.split("=") for pair in rest.split(",") if pair)}
    )


def facts(flags):
    count = int(flags.sum())
    each = torch.arange(count)
    return {"frame": each // 10, "place": each % 10, "span": each // 20, "still": each % 2,
            "salience": torch.linspace(0, 1, count)}  # fmt: skip


def steps(model, spec, device=None, question=None):
    """Hidden states of a prefill and two steps, and the lengths of the cache; with a fork when a question is apart."""
    rows, flags = sequence(model)
    decoder, text = model.get_decoder(), model.config.text_config
    plan = RowPlan(flags, 6, named(spec), facts(flags))
    cache = CompressedCache(text, plan)
    parts = [rows[None]]
    if question:
        shared = PrefixCache(text, plan, len(rows) - question)
        parts = [rows[None, :-question], rows[None, -question:]]
        decoder(inputs_embeds=move(parts[0], device) if device else parts[0], use_cache=True, **{CACHE: shared})
        cache, parts = shared.fork(), parts[1:]
    found = []
    for part in [*parts, rows[None, :1], rows[None, 1:2]]:
        part = move(part, device) if device else part
        out = decoder(inputs_embeds=part, use_cache=True, **{CACHE: cache}).last_hidden_state
        found.append(out.values.clone() if isinstance(out, Elsewhere) else out)
    return found, cache.lengths()


@pytest.mark.parametrize("question", [None, 6])
@pytest.mark.parametrize("spec", SCHEDULES)
def test_a_stage_works_where_its_layer_lives(spec, question):
    model = tiny_model()
    with Attachment(model), torch.no_grad():
        expected, lengths = steps(model, spec, question=question)
    spread(model)
    with strict(), Attachment(model):
        found, held = steps(model, spec, FIRST, question)
    assert held == lengths
    assert all((one - other).abs().max() < 1e-4 for one, other in zip(found, expected, strict=True))


def test_the_devices_of_this_test_do_not_mix():
    with strict():
        one, other = (torch.ones(3, device=device) for device in (FIRST, SECOND))
        assert (one.device, other.device) == (FIRST, SECOND)
        with pytest.raises(RuntimeError, match="cuda:0, cuda:1"):
            one + other
        assert torch.equal((one + other.to(FIRST)).values, torch.full((3,), 2.0))


# -- one device by its number


@pytest.mark.parametrize("name", ["cuda:1", "cuda:0", "cuda", "cpu", "auto"])
def test_a_device_may_be_named_by_number(name):
    assert ModelConfig(device=name).device == name


@pytest.mark.parametrize("name", ["cuda:", "cuda:x", "cuda:-1", "cpu:0", "auto:1", "cuda:1:2", "gpu"])
def test_other_names_are_refused(name):
    with pytest.raises(UsageError, match="--device"):
        ModelConfig(device=name)


def test_a_gpu_that_is_not_there_is_told_with_their_number(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(ModelError, match=r"--device cuda:2: this torch .* sees 2 CUDA devices"):
        pick_device("cuda:2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ModelError, match="sees 0 CUDA devices"):
        pick_device("cuda:0")
