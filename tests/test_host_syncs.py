# SPDX-License-Identifier: Apache-2.0
"""Waits of the host for the device. They are counted on a CPU: the operations that would wait on a GPU run here too."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from clips import make_clip
from test_inllm import Drop, sequence
from tiny import tiny_model
from torch.utils._python_dispatch import TorchDispatchMode

import vidcomp
from vidcomp.engine.decoder import Attachment, CompressedCache, PrefixCache, RowPlan
from vidcomp.schedules.holitom import HolitomInner

WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique2", "_unique2"}


class Waits(TorchDispatchMode):
    """Counts operations whose result the host needs at once."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        indexed = name in ("index", "index_put_") and any(x is not None and x.dtype == torch.bool for x in args[1])
        if name in WAITS or indexed:
            self.seen[name] += 1
        return func(*args, **(kwargs or {}))


def waits_of(run):
    with Waits() as waits, torch.no_grad():
        run()
    return waits.seen


def test_the_counter_counts():
    rows = torch.arange(4.0)
    seen = waits_of(lambda: (rows.sum().item(), rows[rows > 1], rows.nonzero(), bool((rows > 1).any())))
    assert seen == {"_local_scalar_dense": 2, "index": 1, "nonzero": 1}


@pytest.mark.parametrize(("schedule", "merges"), [(None, 0), (Drop(1, 3), 0), (HolitomInner(k=3), 1)])
def test_layers_wait_once_per_merge_and_never_in_a_step(schedule, merges):
    """The stock model's own forward sets the measure."""
    model = tiny_model()
    rows, flags = sequence(model)
    decoder, text = model.get_decoder(), model.config.text_config
    step = rows[None, :1]
    stock = waits_of(lambda: decoder(inputs_embeds=rows[None], use_cache=True))
    with Attachment(model):
        cache = CompressedCache(text, RowPlan(flags, 6, schedule))
        prefill = waits_of(lambda: decoder(inputs_embeds=rows[None], past_key_values=cache, use_cache=True))
        later = waits_of(lambda: decoder(inputs_embeds=step, past_key_values=cache, use_cache=True))
    cuts = len(schedule.layers(6)) if schedule else 0  # what is decided at a layer is checked there, once
    assert prefill == stock + Counter({"nonzero": merges}) + Counter({"_local_scalar_dense": cuts})
    assert later == stock


def test_a_question_on_a_fork_does_not_wait():
    model = tiny_model()
    rows, flags = sequence(model)
    decoder, text = model.get_decoder(), model.config.text_config
    length = int(flags.nonzero()[-1]) + 1
    stock = waits_of(lambda: decoder(inputs_embeds=rows[None], use_cache=True))
    with Attachment(model), torch.no_grad():
        shared = PrefixCache(text, RowPlan(flags, 6, Drop(1, 3)), length)
        decoder(inputs_embeds=rows[None, :length], past_key_values=shared, use_cache=True)
        fork = shared.fork()
        asked = waits_of(lambda: decoder(inputs_embeds=rows[None, length:], past_key_values=fork, use_cache=True))
    assert asked == stock + Counter({"_local_scalar_dense": 2})  # the two decisions are checked


def test_decode_steps_of_the_drop_in_do_not_wait(replicas):
    from families import load, moving_square, stock_inputs

    family = load(replicas("qwen3_vl"))
    clip = moving_square(4)
    layout = family.layout([0.0, 1.0, 2.0, 3.0], *clip.shape[1:3], 4.0)
    inputs = stock_inputs(family, clip, layout)
    with torch.no_grad(), vidcomp.attach(family.model, method="uniform", keep=0.5):
        cache = family.model(**inputs).past_key_values
        ids, places = torch.tensor([[5]]), torch.full((3, 1, 1), 99)
        step = dict(input_ids=ids, past_key_values=cache, position_ids=places, logits_to_keep=1)
        inside = waits_of(lambda: family.model(**step))
    with torch.no_grad():
        cache = family.model(**inputs).past_key_values
        stock = waits_of(lambda: family.model(**{**step, "past_key_values": cache}))
    assert inside == stock


def test_waits_of_an_answer_do_not_grow_with_frames_or_tokens(nano, tmp_path):
    clip = make_clip(tmp_path / "clip.mp4", frames=40)
    seen = []
    for frames, length in ((4, 2), (8, 2), (8, 12)):
        watched = nano.encode(clip, frames=frames)
        encoded = nano.compress(watched, method="uniform", keep=0.25)
        prefill = nano.prepare(encoded, "what happens?")
        steps = dict(max_new_tokens=length, min_new_tokens=length, do_sample=False)
        stock = waits_of(lambda: nano.family.model.generate(inputs_embeds=prefill.rows[None], **steps))  # noqa: B023
        ours = waits_of(lambda: nano.ask(watched, "what happens?", method="uniform", keep=0.25, max_new_tokens=length))  # noqa: B023
        seen.append((ours, stock))
    (few, _), (many, _), (longer, _) = seen
    assert few == many
    assert sum(longer.values()) - sum(many.values()) <= sum(seen[2][1].values()) - sum(seen[1][1].values())
