# SPDX-License-Identifier: Apache-2.0
"""What every method must do for every shape, dtype and keep ratio. A new method adds one row to ``SETTINGS``."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vidcomp.bench.compress import made_up_view, near_square
from vidcomp.core.budget import token_budget
from vidcomp.core.tokens import Reduction, TokenView, apply_reduction
from vidcomp.methods import Method, MethodInfo, get_method, list_methods, method_names, method_of
from vidcomp.methods.blocks.fitted import fitted
from vidcomp.methods.blocks.select import keep_only
from vidcomp.methods.holitom import Holitom, default_tau, effective_keep
from vidcomp.report.listing import described_method

SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("none", {}),
    ("random", {}),
    ("random", {"seed": 7}),
    ("uniform", {}),
    ("frames", {}),
    ("pool", {}),
    ("holitom", {}),
    ("holitom", {"tau": 0.5, "beta": None, "k": 3}),
    ("holitom", {"contextual": 0.5, "max_span": 2}),
    ("holitom", {"contextual": 1.0, "k": 1, "tau": -2.0}),
    ("fastvid", {}),
    ("fastvid", {"cuts": 2, "tau": -1.0, "stride": 1, "context": 1.0, "beta": 0.0}),
    ("fastvid", {"official": "onevision"}),
    ("prunevid", {}),
    ("prunevid", {"tau": 0.3, "segments": 1.0, "official": True}),
    ("framefusion", {}),
    ("framefusion", {"threshold": -1.0}),
    ("longvu", {}),
    ("longvu", {"same_frame": 2.0, "same_token": 0.3, "official": True}),
    ("vidcom2", {}),
    ("vidcom2", {"official": True, "temperature": 1.0}),
    ("dycoke", {}),
    ("aim", {}),
    ("aim", {"official": True}),
    ("visionzip", {}),
    ("visionzip", {"dominant": 0.2}),
    ("divprune", {}),
    ("vispruner", {}),
    ("vispruner", {"important": 0.0}),
    ("fastervlm", {}),
    ("flowcut", {}),
    ("evs", {}),
    ("evs", {"first": "budget"}),
    ("fopru", {}),
    ("fopru", {"mode": "rows"}),
    ("llavolta", {}),
    ("v_cast", {}),
    ("vscan", {}),
    ("vscan", {"local": 1.0, "windows": 2}),
    ("vtc_cls", {}),
    ("vtc_cls", {"normalize": True, "start": 1}),
    ("flashvid", {}),
    ("flashvid", {"alpha": 0.0, "event": False, "segments": 1}),
    ("kitoke", {}),
    ("kitoke", {"sampling": "systematic", "project": 4}),
    ("unified_st", {}),
    ("unified_st", {"tau": 0.3, "clusters": 1.0, "project": 4}),
    ("gleanvid", {}),
    ("lftr_like", {}),
    ("lftr_like", {"time": 1.0}),
    ("globalcom2", {}),
    ("tome", {}),
    ("turbo", {}),
    ("turbo", {"alpha": 0}),
    ("todre", {}),
    ("kffocus", {}),
    ("mmtok", {}),
    ("mmtok", {"window": 1, "alpha": 0.0}),
    ("cluster", {}),
    ("cluster", {"window": 3, "rounds": 1}),
    ("recoverable", {}),
    ("recoverable", {"adaptive": True}),
    ("surge", {}),
    ("surge", {"official": True}),
    ("echoprune", {}),
    ("gprune", {}),
    ("gprune", {"group": "video", "steps": 1}),
    ("forestprune", {}),
    ("st_simdiff", {}),
    ("st_simdiff", {"same": -1.0, "event": -1.0, "official": True}),
    ("aot", {}),
    ("aot", {"deep": 1.0, "residual": 1.0, "clip": 3}),
    ("ott_vid", {"iterations": 20}),
    ("ott_vid", {"iterations": 2, "share": 1.0, "mass": None, "threshold": None}),
    ("forestprune", {"similarity": -1.0, "nearness": 0.0, "window": 2}),
]
ATTENTION = ("salience", "cls_attention", "summary_attention", "value_norm", "value_similarity")
PUBLISHED = {"fastvid", "holitom", "longvu", "prunevid", "vidcom2"}
IDS = [f"{name}-{'-'.join(map(str, given_.values()))}" for name, given_ in SETTINGS]
every_setting = pytest.mark.parametrize(("name", "parameters"), SETTINGS, ids=IDS)

shapes = st.tuples(st.integers(1, 9), st.sampled_from([1, 2, 4, 6, 9, 16, 25]), st.sampled_from([1, 2, 5, 16, 48]))
keeps = st.one_of(st.sampled_from([1e-6, 0.02, 0.1, 0.15, 0.25, 0.5, 0.999, 1.0]), st.floats(0.001, 1))
dtypes = st.sampled_from([torch.float32, torch.bfloat16, torch.float16])
kinds = st.sampled_from(["scenes", "noise", "still", "one value", "repeated tokens", "zeros"])


def make_view(kind: str, shape: tuple[int, int, int], dtype: torch.dtype, seed: int) -> TokenView:
    """A video of that kind, with every signal; attention has ties on purpose."""
    view = made_up_view(shape, seed=seed, scene_frames=3)
    draw = torch.Generator().manual_seed(seed)
    features = view.features
    if kind == "noise":
        features = torch.randn(shape, generator=draw)
    if kind == "still":
        features = torch.randn(shape[1:], generator=draw).expand(shape).clone()
    if kind == "one value":
        features = torch.full(shape, 0.3)
    if kind == "repeated tokens":
        features = torch.randn(3, shape[2], generator=draw)[torch.randint(3, shape[:2], generator=draw)]
    if kind == "zeros":
        features = torch.zeros(shape)
    tied = {name: torch.randint(4, shape[:2], generator=draw).float() for name in ATTENTION}
    layers = torch.randint(4, (*shape[:2], 6), generator=draw).float()
    keys = features[..., : max(1, shape[2] // 2)].clone()
    return replace(
        view, features=features.to(dtype), cls_by_layer=layers, keys=keys, encoder_features=keys.to(dtype),
        frame_features=features.mean(1), query=torch.randn(3, shape[2], generator=draw).to(dtype), **tied,
    )  # fmt: skip


def same(one: Reduction, other: Reduction) -> bool:
    pairs = ((one.anchors, other.anchors), (one.assign, other.assign), (one.weights, other.weights))
    return one.spans == other.spans and all(torch.equal(a, b) for a, b in pairs)


@every_setting
@settings(max_examples=20)
@given(kind=kinds, shape=shapes, dtype=dtypes, keep=keeps, seed=st.integers(0, 99))
def test_every_method(
    name: str,
    parameters: dict[str, Any],
    kind: str,
    shape: tuple[int, int, int],
    dtype: torch.dtype,
    keep: float,
    seed: int,
) -> None:
    view = make_view(kind, shape, dtype, seed)
    method = get_method(name, **parameters)
    reduction = method(view, keep)
    frames, tokens = shape[:2]

    assert 1 <= reduction.kept <= view.total
    check_count(method, view, keep, reduction.kept)
    if reduction.raster:
        assert bool((reduction.anchors.diff() > 0).all())
    if reduction.spans:
        assert [frame for span in reduction.spans for frame in range(span.start, span.end + 1)] == list(range(frames))
    check_weights(reduction)
    for count in {1, (reduction.kept + 1) // 2, token_budget(view.total, 0.4), view.total}:
        check_fitted(view, reduction, count)

    merged = apply_reduction(view, reduction)
    assert merged.features.dtype == dtype and bool(torch.isfinite(merged.features).all())
    assert int(merged.members.sum()) == int((reduction.assign >= 0).sum())
    low, high = view.features.float().aminmax()
    slack = 0.02 * max(1.0, float(high - low))  # averages stay between the extremes
    assert float(merged.features.float().min()) >= float(low) - slack
    assert float(merged.features.float().max()) <= float(high) + slack

    # As published, vidcom2 takes from common frames, fastvid and prunevid merge, longvu drops what repeats, and HoliTom
    # with a threshold of its own stores static positions once.
    if keep == 1.0 and (name not in PUBLISHED or not method.decides_at_one):
        assert torch.equal(merged.features, view.features.reshape(view.total, -1))
        assert torch.equal(merged.positions, torch.arange(view.total))
    assert same(reduction, method(view, keep))
    assert frames * tokens == reduction.assign.numel()


def check_count(method: Method, view: TokenView, keep: float, kept: int) -> None:
    """An exact method tells its count, which is the budget unless its class names a rule; another one tells none."""
    frames, grid = view.features.shape[0], view.grid
    if not method.exact:
        with pytest.raises(ValueError, match="depends on the video"):
            method.count(frames, grid, keep)
        return
    assert kept == method.count(frames, grid, keep)
    if not method.rule and getattr(method, "mode", "rank") == "rank":
        assert kept == token_budget(view.total, keep)


def check_fitted(view: TokenView, reduction: Reduction, count: int) -> None:
    """Any decision becomes one of exactly ``count`` survivors, with and without attention to choose by."""
    for known in (view, TokenView(view.features, view.grid, view.times)):
        found = fitted(known, reduction, count)
        assert found.kept == count and (found is reduction) == (reduction.kept == count)
        assert found.raster == reduction.raster and found.spans == reduction.spans
        old, new = set(reduction.anchors.tolist()), set(found.anchors.tolist())
        assert new <= old or old <= new
        check_weights(found)
        assert bool(torch.isfinite(apply_reduction(known, found).features).all())


def check_weights(reduction: Reduction) -> None:
    """Shares of each survivor sum to one, its anchor is a member of it, and dropped tokens weigh nothing."""
    used = reduction.assign >= 0
    sums = torch.zeros(reduction.kept, dtype=torch.float64)
    sums.index_add_(0, reduction.assign[used], reduction.weights[used].double())
    if reduction.more is not None:
        sums.index_add_(0, reduction.more.survivor, reduction.more.weight.double())
        assert bool((reduction.more.weight > 0).all())
    torch.testing.assert_close(sums, torch.ones_like(sums), rtol=0, atol=1e-5)
    assert torch.equal(reduction.assign[reduction.anchors], torch.arange(reduction.kept))
    assert bool((reduction.weights[~used] == 0).all()) and bool((reduction.weights >= 0).all())


@every_setting
@pytest.mark.parametrize(
    ("kind", "shape"),
    [("one value", (8, 36, 32)), ("zeros", (8, 36, 32)), ("scenes", (6, 196, 64)), ("repeated tokens", (6, 196, 64))],
)
def test_same_on_any_number_of_threads(
    name: str, parameters: dict[str, Any], kind: str, shape: tuple[int, int, int]
) -> None:
    view, method = make_view(kind, shape, torch.float32, 3), get_method(name, **parameters)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            reduction = method(view, 0.15)
            found.append((reduction, apply_reduction(view, reduction).features))
    finally:
        torch.set_num_threads(before)
    assert all(same(found[0][0], reduction) for reduction, _ in found)
    assert all(torch.equal(found[0][1], features) for _, features in found)


EXACT_SETTINGS = [  # recoverable lets outliers decide, on request
    setting for setting in SETTINGS if get_method(setting[0]).exact and "adaptive" not in setting[1]
]


@pytest.mark.parametrize(("name", "parameters"), EXACT_SETTINGS)
@pytest.mark.parametrize("keep", [0.07, 0.3, 0.77])
def test_exact_means_that_the_count_follows_from_the_shape(name: str, parameters: dict[str, Any], keep: float) -> None:
    method = get_method(name, **parameters)
    for kind in ("scenes", "noise", "still", "one value"):
        view = make_view(kind, (5, 16, 16), torch.float32, 1)
        check_count(method, view, keep, method(view, keep).kept)


@pytest.mark.parametrize("frames", [5, 6, 7, 8, 9, 13])
@pytest.mark.parametrize("keep", [0.05, 0.25, 0.3, 0.77, 1.0])
def test_the_published_counts_of_dycoke(frames: int, keep: float) -> None:
    view = make_view("scenes", (frames, 9, 16), torch.float32, 1)
    method = get_method("dycoke", official=True)
    assert method(view, keep).kept == method.count(frames, view.grid, keep)


OFFICIAL = [row for row in list_methods() if row.parity == "goldens" and "official" in row.parameters]


@pytest.mark.parametrize("row", OFFICIAL, ids=lambda row: row.name)
def test_what_is_equal_to_published_code_is_told(row: MethodInfo) -> None:
    """A method with an ``official`` form names it as what is equal, and its default is another."""
    variants = [text.split(", ")[0] for text in row.equal_with.split(" or ")]
    assert row.differs and variants and all(text.startswith("official=") for text in variants)
    found = []
    for kind, shape in (("scenes", (9, 16, 24)), ("noise", (7, 25, 16)), ("still", (9, 36, 8))):
        view = make_view(kind, shape, torch.float32, 0)
        for text, keep in itertools.product(variants, (0.1, 0.33, 0.5)):
            default, official = (method_of(spec)(view, keep) for spec in (row.name, f"{row.name}:{text}"))
            found.append(same(default, official) and default.more is None)
    assert not all(found)


def test_who_has_no_official_form_claims_none() -> None:
    others = {row.name for row in list_methods()} - {row.name for row in OFFICIAL}
    assert not [row.name for row in list_methods() if row.name in others and row.equal_with]
    assert "official=true; by default it" in described_method(next(row for row in OFFICIAL if row.name == "surge"))


def test_what_is_dropped_and_what_comes_back() -> None:
    """Four tokens a, b, a', c: of a, b, c the least attended goes; beside a and a' the one unlike both comes back."""
    features = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.99, 0.1], [-1.0, 0.0]]])
    view = TokenView(features, (1, 4), torch.zeros(1), salience=torch.tensor([[0.1, 0.3, 0.9, 0.2]]))
    kept = keep_only(torch.tensor([0, 1, 3]), 4)
    assert fitted(view, kept, 2).anchors.tolist() == [1, 3]
    assert fitted(view, keep_only(torch.tensor([0, 2]), 4), 3).anchors.tolist() == [0, 2, 3]
    bare = TokenView(features, (1, 4), torch.zeros(1))
    assert fitted(bare, keep_only(torch.arange(4), 4), 3).anchors.tolist() == [0, 1, 3]  # a' is like a before it


def test_what_absorbs_everything_goes_on_absorbing() -> None:
    """Three tokens a, b, a' in survivors {a} and {b, a'}: joined by members, and parted again."""
    features = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.99, 0.1]]])
    view = TokenView(features, (1, 3), torch.zeros(1), salience=torch.tensor([[9.0, 1.0, 1.0]]))
    merged = Reduction(torch.tensor([0, 1]), torch.tensor([0, 1, 1]), torch.tensor([1.0, 0.5, 0.5]))
    one = fitted(view, merged, 1)
    assert one.anchors.tolist() == [0] and one.assign.tolist() == [0, 0, 0]
    torch.testing.assert_close(one.weights, torch.full((3,), 1 / 3))
    apart = fitted(view, merged, 3)
    assert apart.assign.tolist() == [0, 1, 2] and apart.weights.tolist() == [1, 1, 1]


def test_what_comes_back_is_read_in_its_frame() -> None:
    view = make_view("scenes", (6, 16, 32), torch.float32, 0)
    reduction = Holitom(contextual=0.5)(view, 0.3)
    order, before = fitted(view, reduction, 60).anchors.tolist(), reduction.anchors.tolist()
    assert not reduction.raster and [anchor for anchor in order if anchor in before] == before
    spans = [next(i for i, s in enumerate(reduction.spans) if s.start <= a // 16 <= s.end) for a in order]
    assert spans == sorted(spans)


@every_setting
def test_methods_leave_the_input_alone(name: str, parameters: dict[str, Any]) -> None:
    view = make_view("scenes", (7, 16, 24), torch.float32, 1)
    copy = replace(view, features=view.features.clone())
    apply_reduction(view, get_method(name, **parameters)(view, 0.2))
    assert torch.equal(view.features, copy.features)


@pytest.mark.parametrize(("name", "parameters"), [setting for setting in SETTINGS if setting[0] != "none"])
@pytest.mark.parametrize("keep", [0.0, -0.1, 1.5, float("nan")])
def test_keep_outside_its_range(name: str, parameters: dict[str, Any], keep: float) -> None:
    with pytest.raises(ValueError, match="keep must be in"):
        get_method(name, **parameters)(make_view("scenes", (2, 4, 8), torch.float32, 0), keep)


@every_setting
def test_missing_signals_are_named(name: str, parameters: dict[str, Any]) -> None:
    method = get_method(name, **parameters)
    full = make_view("scenes", (2, 4, 8), torch.float32, 0)
    bare = TokenView(full.features, full.grid, full.times)
    if not method.needs:
        assert method(bare, 0.5).kept >= 1
        return
    with pytest.raises(ValueError, match="|".join(method.needs)):
        method(bare, 0.5)


@settings(max_examples=60)
@given(kind=kinds, shape=shapes, keep=keeps, contextual=st.sampled_from([0.0, 0.4, 1.0]), seed=st.integers(0, 99))
def test_holitom_budget(kind: str, shape: tuple[int, int, int], keep: float, contextual: float, seed: int) -> None:
    """Counts are those of the rule: per span round(static * r'), per frame ceil(dynamic * r')."""
    view = make_view(kind, shape, torch.float32, seed)
    reduction = Holitom(contextual=contextual, tau=0.8)(view, keep)
    saved = sum(span.static * (len(span) - 1) for span in reduction.spans)
    ratio = effective_keep(keep, view.total, saved)
    target = ratio * (view.total - saved)
    slack = sum(0.5 + len(span) for span in reduction.spans)  # rounding of the static part, one ceiling per frame
    assert -slack <= reduction.kept - target <= slack
    assert target <= keep * view.total + 1e-6


def test_equal_tokens_give_ties_to_the_lower_index() -> None:
    view = make_view("one value", (3, 6, 8), torch.float32, 0)
    noise = replace(view, features=torch.randn(3, 6, 8, generator=torch.Generator().manual_seed(0)))
    level = replace(noise, salience=torch.ones(3, 6))
    assert Holitom(tau=2.0)(level, 0.5).anchors.tolist() == [0, 1, 2, 6, 7, 8, 12, 13, 14]
    assert Holitom()(view, 0.17).anchors.tolist() == [0, 1, 2]  # one span: r' = 3 * 0.17 of six equal static tokens


def test_order_is_static_first_then_frames() -> None:
    view = made_up_view((6, 16, 32), scene_frames=3)
    reduction = Holitom(contextual=0.5)(view, 0.5)
    assert not reduction.raster
    spans = [next(i for i, s in enumerate(reduction.spans) if s.start <= a // 16 <= s.end) for a in reduction.anchors]
    assert spans == sorted(spans)
    raster = reduction.in_raster_order()
    assert raster.anchors.tolist() == sorted(reduction.anchors.tolist())
    merged, sorted_ = apply_reduction(view, reduction), apply_reduction(view, raster)
    assert torch.equal(merged.features[reduction.anchors.argsort()], sorted_.features)


def test_nothing_left_keeps_one() -> None:
    """All static and too few tokens for a rounded half: the published rule would return nothing."""
    view = make_view("still", (4, 4, 8), torch.float32, 0)
    reduction = Holitom()(view, 1e-6)
    assert reduction.kept == 1
    assert int((reduction.assign == 0).sum()) == 16


def test_uniform_and_random_positions() -> None:
    view = make_view("noise", (2, 5, 4), torch.float32, 0)
    assert get_method("uniform")(view, 0.5).anchors.tolist() == [1, 3, 5, 7, 9]
    assert get_method("uniform")(view, 0.3).anchors.tolist() == [1, 5, 8]
    assert not torch.equal(get_method("random")(view, 0.5).anchors, get_method("random", seed=1)(view, 0.5).anchors)


def test_default_tau() -> None:
    assert [default_tau(keep) for keep in (0.05, 0.1, 0.1 + 1e-12, 0.11, 0.15)] == [0.65] * 3 + [0.8] * 2


def test_salience_with_holes_still_selects_dynamic_tokens() -> None:
    view = make_view("noise", (2, 6, 8), torch.float32, 0)
    salience = torch.tensor([[float("nan"), -float("inf"), 1.0, 5.0, float("inf"), 0.0]] * 2)
    assert Holitom()(replace(view, salience=salience), 0.4).anchors.tolist() == [2, 3, 4, 8, 9, 10]


def test_table_covers_every_built_in_method() -> None:
    assert set(method_names()) <= {name for name, _ in SETTINGS} | {"plug-in"}
    assert near_square(196) == (14, 14) and near_square(7) == (1, 7)
