# SPDX-License-Identifier: Apache-2.0
"""Rows that slices share in the vision tower: against the stock tower, and against one in which every patch has a row
that is overwritten, before each stock layer, by the row that stands for it."""

from __future__ import annotations

from contextlib import contextmanager
from itertools import pairwise

import pytest
import torch
from families import FAMILY_NAMES, checkpoint, load, moving_square
from hypothesis import given, settings
from hypothesis import strategies as st
from test_inllm import hooks_on

from vidcomp.tower.probe import TOWER_SIGNALS
from vidcomp.tower.repeats import RepeatedPatches
from vidcomp.tower.shared import SharedRows

SLICES = 5


class Given:
    """Hands out masks that the test chose."""

    def __init__(self, own):
        self.left = own

    def own(self, patches):
        now, self.left = self.left[: len(patches)], self.left[len(patches) :]
        return now


class Case:
    def __init__(self, family):
        self.family = family
        self.clip = moving_square(SLICES * family.frames_per_slice, 168, 224)
        self.layout = family.layout_of(self.clip)
        self.signals = family.signals & TOWER_SIGNALS - {"cls_by_layer"}
        with torch.no_grad():
            self.shape = family.patches(family.pixels(self.clip, self.layout), self.layout).shape[:3]

    def encode(self, repeats=None, chunk=16):
        self.family.chunk = chunk
        try:
            shared = repeats and SharedRows(self.family.sharing_tower, repeats)
            return self.family.encode(self.clip, self.signals, self.layout, shared), shared
        finally:
            del self.family.chunk

    def masks(self, share, seed=0):
        """[T, H, W] bool; the first slice whole, a later one without any row, the others drawn."""
        own = torch.rand(self.shape, generator=torch.Generator().manual_seed(seed)) < share
        own[0], own[2] = True, False
        return own

    def rows(self, own):
        """The masks in the order of the tower's rows, leading ones included: [T, P]."""
        order = self.family.patch_order(self.layout)
        flat = own.flatten(1) if order is None else own.flatten(1)[:, order]
        leading = self.family.leading
        return torch.cat([flat.any(1, keepdim=True).expand(-1, leading), flat], 1)

    @contextmanager
    def overwritten(self, own):
        """Every patch has a row, and before each layer it becomes the row that stands for it."""
        rows, tower = self.rows(own), self.family.sharing_tower
        newest = torch.zeros(rows.shape, dtype=torch.int64)
        for t in range(1, len(rows)):
            newest[t] = torch.where(rows[t], t, newest[t - 1])
        source = newest * rows.shape[1] + torch.arange(rows.shape[1])

        def said(values):
            flat = values.reshape(-1, values.shape[-1])
            return flat[source.flatten()].view(values.shape)

        def before(module, args, kwargs):
            if args:
                return (said(args[0]), *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": said(kwargs["hidden_states"])}

        hooks = [layer.register_forward_pre_hook(before, with_kwargs=True) for layer in tower.layers]
        hooks += [tower.layers[i].register_forward_hook(lambda _, args, out: said(out)) for i in tower.tapped]
        yield
        for hook in hooks:
            hook.remove()


@pytest.fixture(scope="module")
def cases(replicas, tmp_path_factory):
    folder, made = tmp_path_factory.mktemp("siblings"), {}

    def case(name, attn="sdpa"):
        if (name, attn) not in made:
            made[name, attn] = Case(load(checkpoint(replicas, folder, name), attn))
        return made[name, attn]

    return case


def parts(encoded):
    return {"features": encoded.features, **encoded.signals, **dict(enumerate(encoded.deepstack))}


def assert_equal(one, other, close=False):
    one, other = parts(one), parts(other)
    assert one.keys() == other.keys()
    for name, values in one.items():
        if close:
            scale = other[name].abs().max()
            torch.testing.assert_close(values / scale, other[name] / scale, rtol=0, atol=2e-5, msg=str(name))
        else:
            assert torch.equal(values, other[name]), name


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_nothing_shared_is_bit_equal_to_the_stock_tower(cases, name, attn):
    case = cases(name, attn)
    stock, _ = case.encode()
    ours, shared = case.encode(Given(torch.ones(case.shape, dtype=torch.bool)))
    assert_equal(ours, stock)
    assert len(set(shared.rows)) == 1 and shared.rows[0] > 0
    configs = {type(getattr(module, "config", None)).__name__ for module in case.family.tower.modules()}
    assert "_InterceptedConfig" not in configs


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_shared_rows_equal_a_tower_whose_rows_are_overwritten(cases, name):
    case = cases(name, "eager" if name in ("internvl3", "smolvlm2", "qwen2_vl") else "sdpa")
    own = case.masks(0.3)
    with case.overwritten(own):
        expected, _ = case.encode()
    ours, shared = case.encode(Given(own.clone()))
    assert_equal(ours, expected, close=True)
    rows = case.rows(own)
    assert shared.rows == [int(rows.sum())] * (len(shared.rows) - 1) + [rows.numel()]
    for chunk in (1, 2):  # slice 2 alone needs no row at all
        assert_equal(case.encode(Given(own.clone()), chunk)[0], expected, close=True)
    stock, _ = case.encode()
    assert (stock.features - ours.features).abs().max() > 1e-3 * stock.features.abs().max()


class Differing:
    """A row of its own for every patch in which any pixel differs from the slice before."""

    def __init__(self):
        self.before = None

    def own(self, patches):
        clip = patches if self.before is None else torch.cat([self.before, patches])
        changed = (clip[1:] != clip[:-1]).flatten(3).any(-1)
        first = torch.ones(1, *patches.shape[1:3], dtype=torch.bool)
        self.before = patches[-1:]
        return torch.cat([first, changed]) if len(changed) < len(patches) else changed


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_patches_stand_where_the_towers_rows_do(cases, name):
    case, read = cases(name), []
    hook = case.family.sharing_tower.layers[0].register_forward_pre_hook(
        lambda module, args, kwargs: read.append((args[0] if args else kwargs["hidden_states"]).clone()),
        with_kwargs=True,
    )
    case.encode()
    hook.remove()
    rows = read[0].reshape(SLICES, -1, read[0].shape[-1])[:, case.family.leading :]
    with torch.no_grad():
        own = Differing().own(case.family.patches(case.family.pixels(case.clip, case.layout), case.layout))
    found = (rows[1:] != rows[:-1]).any(-1)
    assert torch.equal(case.rows(own)[1:, case.family.leading :], found)
    assert 0 < found.float().mean() < 0.7


def loops_own(patches, limit, every):
    """Patch by patch, part by part; the picture of the last computed row is kept for each patch."""
    slices, high, wide = patches.shape[:3]
    own, shown, since = torch.zeros(slices, high, wide, dtype=torch.bool), {}, 0
    for t in range(slices):
        for y in range(high):
            for x in range(wide):
                if not shown or since >= every:
                    own[t, y, x] = True
                    continue
                for j in range(max(0, y - 1), min(high, y + 2)):
                    for i in range(max(0, x - 1), min(wide, x + 2)):
                        own[t, y, x] |= any(
                            abs(float((now - then).mean())) > limit
                            for now, then in zip(quarters(patches[t, j, i]), quarters(shown[j, i]), strict=True)
                        )
        if own[t].float().mean() > 0.75:
            own[t] = True
        since = 1 if own[t].all() else since + 1
        shown |= {(y, x): patches[t, y, x] for y, x in own[t].nonzero().tolist()}
    return own


def quarters(patch):
    half = patch.shape[-1] // 2
    return [part for channel in patch for rows in channel.split(half) for part in rows.split(half, -1)]


def drifting(seed, slices=9, high=3, wide=4):
    """[T, H, W, 2, 4, 4]: some patches still, some drifting slowly, some jumping."""
    draw = torch.Generator().manual_seed(seed)
    speed = torch.rand(high, wide, generator=draw).pow(4)[..., None, None, None]
    steps = torch.randn(slices, high, wide, 2, 4, 4, generator=draw).cumsum(0)
    return 0.5 + 0.08 * speed * steps + 0.01 * torch.randn(slices, high, wide, 2, 4, 4, generator=draw)


@given(
    seed=st.integers(0, 1000), limit=st.sampled_from([0.02, 0.06, 0.2]), every=st.integers(2, 9), cut=st.integers(1, 8)
)
@settings(max_examples=25)
def test_the_decision_equals_a_loop_over_patches_chunk_by_chunk(seed, limit, every, cut):
    clip = drifting(seed)
    repeats = RepeatedPatches(limit, every)
    own = torch.cat([repeats.own(clip[:cut]), repeats.own(clip[cut:])])
    assert torch.equal(own, loops_own(clip, limit, every))
    wholes = own.flatten(1).all(1).nonzero()[:, 0].tolist()
    assert all(later - one <= every for one, later in pairwise([*wholes, len(own)]))


def test_a_slow_drift_adds_up_until_it_is_seen():
    clip = torch.full((20, 6, 6, 3, 4, 4), 0.5)
    clip[:, 2, 2] += 0.01 * torch.arange(20.0)[:, None, None, None]
    own = RepeatedPatches(0.045, 99).own(clip)
    assert own[1:, 2, 2].nonzero()[:, 0].tolist() == [4, 9, 14]
    assert own[5].nonzero().tolist() == [[y, x] for y in (1, 2, 3) for x in (1, 2, 3)]


def test_limit_0_shares_equal_pictures_only():
    clip = torch.rand(1, 6, 6, 3, 4, 4).repeat(5, 1, 1, 1, 1, 1)
    clip[3, 2, 2, 0, 0, 0] += 1e-6
    clip[3, 2, 2, 0, 0, 1] -= 1e-6  # the mean stays
    assert RepeatedPatches(0).own(clip).flatten(1).float().mean(1).tolist() == [1, 0, 0, 1, 1]


@given(data=st.data())
@settings(max_examples=10)
def test_any_pattern_of_repeats_equals_the_overwritten_tower(cases, data):
    case = cases(data.draw(st.sampled_from(["llava_next_video", "qwen2_5_vl", "qwen3_vl"])))
    own = case.masks(data.draw(st.sampled_from([0.02, 0.5, 0.98])), data.draw(st.integers(0, 99)))
    for blank in data.draw(st.sets(st.integers(1, SLICES - 1))):
        own[blank] = False
    for whole in data.draw(st.sets(st.integers(1, SLICES - 1), max_size=2)):
        own[whole] = True
    with case.overwritten(own):
        expected, _ = case.encode()
    assert_equal(case.encode(Given(own.clone()), data.draw(st.sampled_from([1, 2, 16])))[0], expected, close=True)


def test_nothing_is_left_behind_even_after_an_error(cases):
    case = cases("qwen3_vl")
    before, _ = case.encode()
    shared = SharedRows(case.family.sharing_tower, RepeatedPatches(0.1))
    with torch.no_grad(), pytest.raises(RuntimeError, match="stop"):
        with shared.chunk(case.family.patches(case.family.pixels(case.clip, case.layout), case.layout)):
            assert hooks_on(case.family.tower)
            raise RuntimeError("stop")
    assert not hooks_on(case.family.tower)
    assert_equal(case.encode()[0], before)
