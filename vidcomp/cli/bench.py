# SPDX-License-Identifier: Apache-2.0
"""vidcomp bench: speed, side by side in one process, and accuracy."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vidcomp.cli.accuracy import accuracy
from vidcomp.cli.console import Ui, data, out_console
from vidcomp.cli.options import ALL_GROUPS, path_argument, with_config, with_ui
from vidcomp.config import ModelConfig, OuterConfig, RunConfig, SpanConfig, VideoConfig
from vidcomp.errors import UsageError
from vidcomp.report.sheet import Sheet

if TYPE_CHECKING:
    from vidcomp.bench import AskBench
    from vidcomp.bench.compress import CompressTiming
    from vidcomp.bench.paired import MedianInterval

__all__ = ["app"]

app = typer.Typer(name="bench", help="Measure speed and accuracy against the plain model.", no_args_is_help=True)
app.command()(accuracy)


@app.command()
@with_ui
@with_config(*ALL_GROUPS)
def ask(
    video: Annotated[Path, path_argument("video file")],
    question: Annotated[str, typer.Argument(help="what to ask about it")] = "describe the video.",
    repeats: Annotated[
        int, typer.Option("--repeats", help="measured pairs; too few give no verdict", min=1, max=1000)
    ] = 11,
    warmup: Annotated[int, typer.Option("--warmup", help="pairs that go before and do not count", min=1, max=1000)] = 2,
    arch: Annotated[str | None, typer.Option("--arch", help="a full-size architecture with random weights")] = None,
    *,
    config: RunConfig,
    ui: Ui,
) -> None:
    """Time the stages of an answer with and without compression, in pairs whose order is drawn by chance."""
    from vidcomp.cli.session import open_model

    with open_model(config, ui, video, question, arch=arch) as lm:
        from vidcomp.bench import bench_ask
        from vidcomp.bench.paired import CONFIDENCE

        result = bench_ask(lm, video, question, repeats=repeats, warmup=warmup, seed=config.generate.seed)
    if ui.json:
        data(result.to_dict())
        return
    out_console().print(_ask_table(result))
    data(f"{repeats} pairs, {warmup} before them for warm-up; each range holds with a chance of {CONFIDENCE:.1%}")
    data(f"verdict: {result.verdict}")


@app.command()
@with_ui
def compress(
    method: Annotated[str, typer.Option("--method", help="how tokens are reduced; all for every method")] = "holitom",
    shape: Annotated[str, typer.Option("--shape", help="frames x tokens x width", metavar="TxNxD")] = "32x196x3584",
    keep: Annotated[float, typer.Option("--keep", help="share of the tokens to keep")] = 0.1,
    repeats: Annotated[int, typer.Option("--repeats", help="measurements", min=1, max=10000)] = 20,
    threads: Annotated[
        int | None, typer.Option("--threads", help="torch threads (default: as torch chooses)", min=1)
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="seed of the synthetic video")] = 0,
    *,
    ui: Ui,
) -> None:
    """Time the outer stage alone on synthetic tokens of a shape."""
    sizes = _shape(shape)
    if not 0 < keep <= 1:
        raise UsageError(f"--keep {keep:g}", why="it must be above 0 and at most 1", code="bad_option")
    from vidcomp.bench.compress import bench_compress
    from vidcomp.methods import METHODS

    run: Any = partial(bench_compress, shape=sizes, keep=keep, repeats=repeats, threads=threads, seed=seed)
    if method == "all":
        _compare(run, ui)
        return
    name, parameters = METHODS.parse(method)
    result = run(name, **parameters)
    if ui.json:
        data(result.to_dict())
        return
    data(
        f"{method} {shape} {result.dtype} on {result.device}, {result.threads} threads, "
        f"keep {keep:g}: {result.kept} kept"
    )
    data(
        f"median {result.median_seconds * 1e3:.1f} ms of {result.repeats} "
        f"(10-90 %: {result.p10_seconds * 1e3:.1f}-{result.p90_seconds * 1e3:.1f} ms), "
        f"{result.passes_equivalent:.2f} read passes over {result.feature_bytes / 2**20:.0f} MiB of features"
    )


@app.command()
@with_ui
@with_config(only={ModelConfig: ("device", "dtype", "attn")})
def tower(
    arch: Annotated[str, typer.Option("--arch", help="a full-size architecture with random weights")],
    repeated: Annotated[
        str, typer.Option("--repeated", help="shares of the patches that look as before")
    ] = "0,0.25,0.5,0.75,0.9",
    frames: Annotated[int, typer.Option("--frames", help="frames of the clip", min=2, max=512)] = 8,
    layers: Annotated[int, typer.Option("--layers", help="so many layers in the tower; 0 for all", min=0)] = 0,
    repeats: Annotated[int, typer.Option("--repeats", help="measured pairs", min=1, max=1000)] = 9,
    *,
    config: RunConfig,
    ui: Ui,
) -> None:
    """Time the vision tower with shared rows beside the stock tower, in pairs whose order is drawn by chance."""
    shares = [_share(text) for text in repeated.split(",")]
    from vidcomp.bench.tower import bench_tower
    from vidcomp.families import random_family

    family = random_family(arch, config.model, tower_layers=layers)
    results = bench_tower(family, shares, frames=frames, repeats=repeats)
    if ui.json:
        for result in results:
            data(result.to_dict())
        return
    table = Sheet("repeated", "rows", "stock ms (10-90 %)", "shared ms (10-90 %)", "ratio", "of 1 / rows")
    for result in results:
        times = [f"{t.median * 1e3:.0f} ({t.p10 * 1e3:.0f}-{t.p90 * 1e3:.0f})" for t in (result.stock, result.shared)]
        ratio = _ranged(result.ratio) if result.ratio else ""
        table.add_row(f"{result.repeated:.0%}", f"{result.rows:.3f}", *times, ratio, f"{result.of_ideal:.1%}")
    out_console().print(table)


@app.command()
@with_ui
@with_config(only={ModelConfig: ("model", "revision", "attn", "offline"), VideoConfig: ("frames",)})
def int8(
    video: Annotated[Path, path_argument("video file")],
    arch: Annotated[
        str | None, typer.Option("--arch", help="a full-size architecture with random weights, in place of --model")
    ] = None,
    layers: Annotated[int, typer.Option("--layers", help="with --arch: layers in the tower; 0 for all", min=0)] = 0,
    repeats: Annotated[int, typer.Option("--repeats", help="measured pairs", min=1, max=1000)] = 9,
    *,
    config: RunConfig,
    ui: Ui,
) -> None:
    """Time a vision tower in 8 bits beside the one in float32, on the CPU, and compare their tokens."""
    from vidcomp.bench.int8 import bench_int8
    from vidcomp.cli.session import check_file
    from vidcomp.families import load_family, random_family
    from vidcomp.families.int8 import INT8_TOWER
    from vidcomp.video.options import sampling_of
    from vidcomp.video.read import read_frames

    check_file(video)
    both = [replace(config.model, device="cpu", dtype="float32", quantize=kind) for kind in ("none", INT8_TOWER)]
    plain, fast = (random_family(arch, one, tower_layers=layers) if arch else load_family(one) for one in both)
    sampling = sampling_of(config.video, plain.default_frames, plain.stock_rule)
    found = bench_int8(plain, fast, read_frames(video, sampling).pixels, repeats=repeats)
    if ui.json:
        data(found.to_dict())
        return
    table = Sheet("float32 ms (10-90 %)", "int8 ms (10-90 %)", "ratio", "cosine, mean", "of the worst token")
    times = [f"{t.median * 1e3:.0f} ({t.p10 * 1e3:.0f}-{t.p90 * 1e3:.0f})" for t in (found.plain, found.int8)]
    table.add_row(*times, _ranged(found.ratio) if found.ratio else "", f"{found.mean:.5f}", f"{found.least:.5f}")
    out_console().print(table)


@app.command()
@with_ui
@with_config(ModelConfig, only={SpanConfig: ("segmenter_model",), OuterConfig: ("method", "keep")})
def spans(
    segmenters: Annotated[
        str, typer.Option("--segmenters", help="what finds the spans, comma-separated: tower, luma, dinov2, clip")
    ] = "tower,luma,dinov2",
    clips: Annotated[int, typer.Option("--clips", help="joined clips of each kind", min=1, max=1000)] = 12,
    frames: Annotated[int, typer.Option("--frames", help="sampled frames of each clip", min=8, max=512)] = 32,
    seed: Annotated[int, typer.Option("--seed", help="of the first clip; the others follow", min=0)] = 0,
    *,
    config: RunConfig,
    ui: Ui,
) -> None:
    """Find the spans of joined clips whose cuts are known, with every segmenter and rule."""
    names = segmenters.split(",")
    from vidcomp.bench.spans import JOINTS, SEGMENTERS, bench_spans
    from vidcomp.cli.session import open_model

    if wrong := [name for name in names if name not in SEGMENTERS]:
        raise UsageError(f"--segmenters {wrong[0]}", why=f"there are: {', '.join(SEGMENTERS)}", code="bad_option")
    table = Sheet("clips", "segmenter", "rule", "cuts found", "boundaries that are cuts", "still parts undivided")
    with open_model(config, ui) as lm:
        for joint in JOINTS:
            for score in bench_spans(lm, joint, names, clips=clips, frames=frames, seed=seed):
                if ui.json:
                    data(score.to_dict())
                cells = ((score.hit, score.cuts), (score.right, score.found), (score.whole, score.still))
                table.add_row(joint, score.segmenter, score.rule, *(f"{part} of {whole}" for part, whole in cells))
    if not ui.json:
        out_console().print(table)


@app.command()
@with_ui
def clip(
    name: Annotated[str, typer.Argument(help="talking-head, slides, hand-held or changing")],
    out: Annotated[Path, path_argument("file to write, such as clip.mp4")],
    seed: Annotated[int, typer.Option("--seed", help="seed of the drawing", min=0)] = 0,
    *,
    ui: Ui,
) -> None:
    """Draw a clip to time with: redundant ones, one of a shaking camera, one that never repeats."""
    from vidcomp.bench.clips import write_clip

    write_clip(name, out, seed)


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise UsageError(f"--repeated {text}", why="shares are written 0,0.5,0.9", code="bad_option")
    return share


def _compare(run: Callable[[str], CompressTiming], ui: Ui) -> None:
    """Every method in one table, or one JSON line each; one after the other, so none disturbs another."""
    from vidcomp.methods import method_names

    table = Sheet("method", "median ms (10-90 %)", "kept", "peak MiB")
    for name in method_names():
        result = run(name)
        if ui.json:
            data(result.to_dict())
            continue
        median, low, high = (x * 1e3 for x in (result.median_seconds, result.p10_seconds, result.p90_seconds))
        peak = "" if result.peak_bytes is None else f"{result.peak_bytes / 2**20:.0f}"
        table.add_row(name, f"{median:.1f} ({low:.1f}-{high:.1f})", f"{result.kept}", peak)
        ui.note(f"{name}: {median:.1f} ms")
    if not ui.json:
        out_console().print(table)


def _shape(text: str) -> tuple[int, int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)x(\d+)", text)
    if match is None or "0" in match.groups():
        raise UsageError(
            f"--shape {text}", why="it must read frames x tokens x width", hint="--shape 32x196x3584", code="bad_option"
        )
    frames, tokens, width = (int(part) for part in match.groups())
    return frames, tokens, width


def _ask_table(result: AskBench) -> Sheet:
    table = Sheet("stage", "plain ms (10-90 %)", "compressed ms (10-90 %)", "ratio")
    for pair in result.pairs:
        if not (pair.plain.median or pair.compressed.median):
            continue  # the stage did not run
        cells = [f"{t.median * 1e3:.2f} ({t.p10 * 1e3:.2f}-{t.p90 * 1e3:.2f})" for t in (pair.plain, pair.compressed)]
        table.add_row(pair.name, *cells, _ranged(pair.ratio) if pair.ratio else "")
    return table


def _ranged(ratio: MedianInterval) -> str:
    return f"{ratio.value:.2f}x ({ratio.range_text})"
