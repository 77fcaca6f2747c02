# SPDX-License-Identifier: Apache-2.0
"""Runs of the tiny model under inner schedules, and the masked reference of what they decided."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from test_inllm import AFTER, BEFORE, VISUAL, run, sequence, with_answer
from tiny import masked_reference, tiny_model

from vidcomp.schedules import Schedule, get_schedule

DEPTH, LENGTH, FRAMES = 6, BEFORE + VISUAL + AFTER, 5
FACTS = {
    "frame": torch.tensor([*(torch.arange(VISUAL - 1) // 8).tolist(), -1]),
    "place": torch.tensor([*(torch.arange(VISUAL - 1) % 8).tolist(), -1]),
    "span": torch.tensor([*(torch.arange(VISUAL - 1) // 24).tolist(), 1]),
    "still": torch.tensor([*(torch.arange(VISUAL - 1) % 3 == 0).long().tolist(), 0]),
    "trusted_attention": torch.rand(VISUAL, generator=torch.Generator().manual_seed(5)),
}

TABLE = [
    ("fastv", {"k": 1, "keep": 0.25}),
    ("fastv", {"k": 3}),
    ("prunevid", {}),
    ("pyramiddrop", {}),
    ("pyramiddrop", {"at": (1, 4), "keep": (0.5, 0.05), "positions": "compact"}),
    ("visiondrop", {}),
    ("visiondrop", {"at": 2, "keep": 0.4, "contextual": 0.5, "official": True, "positions": "compact"}),
    ("vscan", {"k": 2}),
    ("vflowopt", {}),
    ("todre", {"adaptive": False}),
    ("todre", {"tau": 1.0, "k": 1}),
    ("todre", {"tau": 0.0}),
    ("aim", {"start": 1, "end": 4}),
    ("framefusion", {"cost": 0.6, "threshold": 0.05}),
    ("framefusion", {"cost": 0.4, "threshold": -1.0}),
    ("flashvid", {}),
    ("unified_st", {}),
    ("dart", {"keep": 0.4}),
    ("dart", {"k": 1, "visual": 2, "text": 1, "official": True}),
    ("fitprune", {}),
    ("fitprune", {"ratio": 90}),
    ("st_simdiff", {"cost": 0.5}),
    ("catp", {}),
    ("catp", {"k": 3, "query_frames": 2, "keep": 0.3}),
    ("gsearch", {"at": "1/2/5", "keep": "0.7/0.4/0.1"}),
    ("psigmoid", {"keep": 0.5, "drops": 3}),
    ("holitom", {"k": 2}),
    ("shortv", {}),
    ("shortv", {"order": "0/2/5"}),
    ("dycoke", {"layer": 2, "gate": 1.1}),
    ("dycoke", {"layer": 1, "gate": -1.0, "prune": 0.5}),
]


@dataclass(frozen=True)
class Noting(Schedule):
    """Passes everything on to a schedule and notes what it saw and said."""

    inner: Schedule
    stages: dict = field(default_factory=dict)
    cuts: dict = field(default_factory=dict)
    reads: list = field(default_factory=list)

    @property
    def renumbers(self):
        return self.inner.renumbers

    def __getattribute__(self, name):
        if name in {"layers", "watched", "frozen", "read_from"}:
            return getattr(object.__getattribute__(self, "inner"), name)
        return object.__getattribute__(self, name)

    def reduce(self, stage):
        self.stages[stage.layer], self.cuts[stage.layer] = stage, self.inner.reduce(stage)
        return self.cuts[stage.layer]

    def read(self, attention, memory):
        self.reads.append(self.inner.read(attention, memory))
        return self.reads[-1]


def noted(name, parameters, attn="sdpa", **settings):
    model = tiny_model(attn)
    rows, flags = sequence(model)
    schedule = Noting(get_schedule(name, **parameters))
    out, cache = run(model, rows, flags, schedule, facts=FACTS, **settings)
    return model, rows, flags, schedule, out, cache


def reference(model, rows, flags, schedule, tokens, cache, sequence_of_batch=0, positions=None):
    """Logits of the answer's rows, with the schedule's decisions carried out by hiding and overwriting."""
    one = sequence_of_batch
    positions = torch.arange(len(rows))[None] if positions is None else positions
    full, places = with_answer(model, rows, positions, tokens)
    kept, replaced, renumbered = {}, {}, {}
    for layer, cut in schedule.cuts.items():
        if cut is None:
            continue
        kept[layer] = torch.cat(
            [(~flags).nonzero()[:, 0], cache.measured.survivors[layer][one], torch.arange(len(rows), len(full))]
        )
        if cut.merged is not None:
            replaced[layer] = (cache.measured.survivors[layer][one], lambda _, new=cut.merged[one]: new)
        if schedule.renumbers:
            moved = places.clone()
            moved[0, kept[layer].sort().values] = torch.arange(len(kept[layer]))
            renumbered[layer] = moved
    frozen = {layer: flags.nonzero()[:, 0] for layer in cache.plan.frozen}
    unread = {
        layer: unread_keys(schedule, len(rows), len(full), one)
        for layer in range(cache.plan.read_layer or DEPTH, DEPTH)
    }
    return masked_reference(model, full, places, kept, replaced, frozen, unread, renumbered)[len(rows) - 1 :]


def unread_keys(schedule, prompt, total, one):
    hidden = torch.zeros(total, total, dtype=torch.bool)
    for step, choice in enumerate(schedule.reads):
        if choice is not None:
            hidden[prompt + step, BEFORE : BEFORE + VISUAL] = True
            hidden[prompt + step, BEFORE + choice[one]] = False
    return hidden
