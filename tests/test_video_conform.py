# SPDX-License-Identifier: Apache-2.0
"""Pictures as meant: the shape of pixels, one frame for all, tone mapping, interlacing, transparency.

Every clip has its frame numbers burned in, so that whatever is done to a picture, it is still that picture.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import BAND, SIZE, X264, frame_image, make_clip, read_number, read_numbers, rotate
from hypothesis import given, settings
from hypothesis import strategies as st

from vidcomp.video import Frames, Sampling, read_frames
from vidcomp.video.probe import probe
from vidcomp.video.readers.conform import fitted, inside, squared

ALL = Sampling(frames=100)
FEW = 12


def write(
    path: Path,
    images: Sequence[np.ndarray],
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    given: str = "rgb24",
    set_up: Callable[[Any], None] = lambda codec: None,
) -> Path:
    """Encode pictures at 10 per second; ``set_up`` gets the codec context first."""
    import av

    with av.open(str(path), "w") as output:
        stream: Any = output.add_stream(codec, rate=10, options=X264 if options is None else options)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = pix_fmt
        set_up(stream.codec_context)
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format=given)
            frame.pts, frame.time_base = number, Fraction(1, 10)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path


def pictures(count: int = FEW, size: tuple[int, int] = SIZE) -> list[np.ndarray]:
    return [frame_image(number, size) for number in range(count)]


def read(path: Path, **options: Any) -> Frames:
    return read_frames(path, ALL, readers=["pyav"], **options)


def plainly(path: Path) -> list[np.ndarray]:
    """All pictures as PyAV converts them."""
    import av

    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


# The shape of pixels


@given(st.tuples(st.integers(1, 16384), st.integers(1, 8192)), st.tuples(st.integers(1, 300), st.integers(1, 300)))
@settings(deadline=None)
def test_squared_loses_nothing_and_has_bounds(size: tuple[int, int], pixel: tuple[int, int]) -> None:
    wide, high = squared(size, pixel)
    if max(pixel) > 8 * min(pixel):
        assert (wide, high) == size
        return
    assert 1 <= wide <= 16384 and 1 <= high <= 16384
    if wide < 16384 and high < 16384:
        assert wide >= size[0] and high >= size[1] and (wide == size[0] or high == size[1])
        if pixel[0] > pixel[1]:
            assert abs(wide - size[0] * pixel[0] / pixel[1]) <= 0.5
        else:
            assert abs(high - size[1] * pixel[1] / pixel[0]) <= 0.5


@given(st.tuples(st.integers(1, 4000), st.integers(1, 4000)), st.tuples(st.integers(1, 4000), st.integers(1, 4000)))
@settings(deadline=None)
def test_inside_fits(size: tuple[int, int], frame: tuple[int, int]) -> None:
    wide, high = inside(size, frame)
    assert wide <= frame[0] and high <= frame[1]
    assert wide == frame[0] or high == frame[1]


@pytest.mark.parametrize(
    ("suffix", "turned"), [("mp4", 0), ("mov", 0), ("mkv", 0), ("ts", 0), ("avi", 0), ("mp4", 90), ("mov", 90)]
)
@pytest.mark.parametrize(("pixel", "shown"), [((2, 1), (640, 240)), ((1, 2), (320, 480)), ((64, 45), (455, 240))])
def test_pixels_become_square(
    tmp_path: Path, suffix: str, turned: int, pixel: tuple[int, int], shown: tuple[int, int]
) -> None:
    def set_up(codec: Any) -> None:
        codec.sample_aspect_ratio = Fraction(*pixel)

    images = [np.rot90(image, 1) if turned else image for image in pictures()]  # the stored ones lie on their side
    if turned:
        shown = squared(SIZE, pixel[::-1])
    clip = write(tmp_path / f"clip.{suffix}", images, set_up=set_up)
    if turned:
        clip = rotate(tmp_path / f"turned.{suffix}", clip, 90)
    found, looked = read(clip), probe(clip)
    assert found.pixels.shape[1:3] == shown[::-1]
    assert (found.info.width, found.info.height) == shown == (looked.width, looked.height)
    assert read_numbers(found.pixels) == list(range(FEW))
    assert found.pixels[0][-20:, :20].min() > 150  # the block in the corner below stands where it stood
    assert len(found.info.notes) == 1 and f"{pixel[0]}:{pixel[1]}" in found.info.notes[0]
    assert looked.form.pixel == pixel and looked.to_dict()["pixel_aspect"] == f"{pixel[0]}:{pixel[1]}"
    small = read(clip, max_side=160)
    assert small.pixels.shape[1:3] == fitted(*shown, 160)[::-1]


def test_other_readers_stretch_or_refuse(tmp_path: Path) -> None:
    def set_up(codec: Any) -> None:
        codec.sample_aspect_ratio = Fraction(2, 1)

    clip = write(tmp_path / "clip.mp4", pictures(), set_up=set_up)
    found = read_frames(clip, ALL, readers=["opencv"])
    assert found.pixels.shape == (FEW, 240, 640, 3) and len(found.info.notes) == 1
    assert read_numbers(found.pixels) == list(range(FEW))
    assert read_frames(clip, ALL, readers=["decord", "pyav"]).info.reader == "pyav"


def test_pixels_of_no_plausible_shape_are_square(tmp_path: Path) -> None:
    def set_up(codec: Any) -> None:
        codec.sample_aspect_ratio = Fraction(1, 200)

    found = read(write(tmp_path / "clip.mp4", pictures(), set_up=set_up))
    assert found.pixels.shape[1:3] == SIZE[::-1]
    assert "not plausible" in found.info.notes[0]


# One frame for all pictures


@pytest.mark.parametrize("suffix", ["ts", "h264"])
@pytest.mark.parametrize("second", [(120, 240), (480, 240), (240, 120)])
def test_a_picture_that_changes_size_is_fitted(tmp_path: Path, suffix: str, second: tuple[int, int]) -> None:
    parts = [(tmp_path / f"{number}.{suffix}", size) for number, size in enumerate([SIZE, second])]
    for part, size in parts:
        write(part, pictures(FEW, size))
    joined = tmp_path / f"joined.{suffix}"
    joined.write_bytes(b"".join(part.read_bytes() for part, _ in parts))
    found = read(joined)
    numbers, (width, height) = [], inside(second, SIZE)
    top, left = (SIZE[1] - height) // 2, (SIZE[0] - width) // 2
    for image in found.pixels[FEW:]:
        numbers.append(read_number(image[top : top + height, left : left + width]))
        assert image[:top].max(initial=0) == image[:, :left].max(initial=0) == 0
        assert image[top + height :].max(initial=0) == image[:, left + width :].max(initial=0) == 0
    assert read_numbers(found.pixels[:FEW]) == list(range(FEW))
    assert numbers == list(range(FEW))
    assert any("changes" in note for note in found.info.notes)


def test_pixels_that_change_shape_are_fitted(tmp_path: Path) -> None:
    def set_up(shape: Fraction) -> Callable[[Any], None]:
        return lambda codec: setattr(codec, "sample_aspect_ratio", shape)

    parts = [
        write(tmp_path / f"{shape}.ts", pictures(), set_up=set_up(Fraction(shape))).read_bytes() for shape in (1, 2)
    ]
    joined = tmp_path / "joined.ts"
    joined.write_bytes(b"".join(parts))
    found = read(joined)
    assert [image[:60].max() == 0 for image in found.pixels] == [False] * FEW + [True] * FEW
    assert read_numbers(found.pixels[FEW:, 60:180]) == list(range(FEW))


# High dynamic range


def hdr(path: Path, levels: Sequence[tuple[int, int, int]], transfer: int, primaries: int = 9) -> Path:
    """Flat pictures of 10-bit luma and chroma with the frame number below, tagged."""

    def set_up(codec: Any) -> None:
        codec.color_trc, codec.color_primaries, codec.colorspace, codec.color_range = transfer, primaries, 9, 1

    images = []
    for number, (luma, blue, red) in enumerate(levels):
        image = np.empty((SIZE[1] * 3 // 2, SIZE[0]), np.uint16)
        image[: SIZE[1]] = luma
        band = frame_image(number)[: int(SIZE[1] * BAND), :, 1]
        image[: len(band)] = np.where(band > 128, 700, 100)
        chroma = image[SIZE[1] :].reshape(2, SIZE[1] // 2, SIZE[0] // 2)
        chroma[0], chroma[1] = blue, red
        chroma[:, : len(band) // 2] = 512
        images.append(image)
    import av

    with av.open(str(path), "w") as output:
        stream: Any = output.add_stream("libx265", rate=10, options={"x265-params": "log-level=0:crf=4"})
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p10le"
        set_up(stream.codec_context)
        for number, image in enumerate(images):
            frame: Any = av.VideoFrame(*SIZE, "yuv420p10le")
            _fill(frame, image)
            frame.pts, frame.time_base = number, Fraction(1, 10)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path


def _fill(frame: Any, image: np.ndarray) -> None:
    height = frame.height
    chroma = image[height:].reshape(2, height // 2, frame.width // 2)
    for plane, values in zip(frame.planes, (image[:height], *chroma), strict=True):
        rows = np.frombuffer(plane, np.uint16).reshape(plane.height, plane.line_size // 2)
        rows[:, : values.shape[1]] = values


def shown_grey(luma: int, transfer: str) -> float:
    """What 10-bit grey of limited range becomes, written down from the standards once more, value by value."""
    code = min(max((luma - 64) / 876, 0), 1)
    if transfer == "PQ":
        nits = pq_to_nits(code)
    else:  # BT.2100, table 5, on a screen of 1000 candela
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        scene = code * code / 3 if code <= 0.5 else (np.exp((code - c) / a) + b) / 12
        nits = 1000 * scene**1.2
    top = nits_to_pq(1000)
    value, white = min(nits_to_pq(nits) / top, 1), nits_to_pq(203) / top  # BT.2390, 5.4.1
    knee = 1.5 * white - 0.5
    if value >= knee:
        t = (value - knee) / (1 - knee)
        value = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (-2 * t**3 + 3 * t**2) * white
    return 255 * (pq_to_nits(value * top) / 203) ** (1 / 2.4)


def pq_to_nits(code: float) -> float:
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    power = code ** (1 / m2)
    return float(10000 * (max(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1))


def nits_to_pq(nits: float) -> float:
    """By halving: the inverse of the above, not a formula of its own."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if pq_to_nits(middle) < nits else (low, middle)
    return low


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize(("number", "transfer"), [(16, "PQ"), (18, "HLG")])
def test_high_dynamic_range_is_tone_mapped(tmp_path: Path, suffix: str, number: int, transfer: str) -> None:
    lumas = [64, 200, 300, 400, 500, 573, 650, 720, 800, 940]
    clip = hdr(tmp_path / f"clip.{suffix}", [(luma, 512, 512) for luma in lumas], number)
    found = read(clip)
    assert read_numbers(found.pixels) == list(range(len(lumas)))
    greys = found.pixels[:, 100:200, 100:200].mean(axis=(1, 2))  # [T, 3]
    expected = [shown_grey(luma, transfer) for luma in lumas]
    assert np.abs(greys - np.array(expected)[:, None]).max() < 2.5
    assert (np.diff(greys[:, 1]) >= 0).all() and greys[-1].min() >= 254
    looked = probe(clip)
    assert (looked.form.transfer, looked.form.primaries) == (transfer, "bt2020")
    assert len(found.info.notes) == 1 and transfer in found.info.notes[0]


def test_paper_white_and_grey_card_lie_where_viewers_expect_them() -> None:
    """BT.2408: 203 candela is the white of paper, 26 that of a grey card, which ordinary video has near 42 %."""
    white, card = (shown_grey(round(64 + 876 * nits_to_pq(nits)), "PQ") for nits in (203, 26))
    assert 220 < white < 240
    assert abs(card / 255 - 0.42) < 0.02


def test_colours_of_ordinary_video_survive_the_way_through_wide_ones(tmp_path: Path) -> None:
    """Red, green and blue of bt.709 at 60 candela, written with the primaries of bt.2020."""
    to_2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])  # BT.2087
    levels = []
    for colour in np.eye(3):
        red, green, blue = (nits_to_pq(60 * value) for value in to_2020 @ colour)
        luma = 0.2627 * red + 0.6780 * green + 0.0593 * blue
        coded = (luma, (blue - luma) / 1.8814, (red - luma) / 1.4746)
        levels.append((round(64 + 876 * coded[0]), *(round(512 + 896 * value) for value in coded[1:])))
    found = read(hdr(tmp_path / "clip.mp4", levels, 16))
    shown = found.pixels[:, 100:200, 100:200].mean(axis=(1, 2))
    bright = 255 * (60 / 203) ** (1 / 2.4)
    for colour, values in zip(np.eye(3), shown, strict=True):
        light = (values / 255) ** 2.4
        assert abs(values[colour.argmax()] - bright) < 6
        assert light[colour == 0].max() < 0.02


@pytest.mark.parametrize("transfer", [1, 14])
def test_wide_colours_of_the_usual_range(tmp_path: Path, transfer: int) -> None:
    """Greys stay what they are."""
    found = read(hdr(tmp_path / "clip.mp4", [(luma, 512, 512) for luma in (64, 300, 502, 800, 940)], transfer))
    greys = found.pixels[:, 100:200, 100:200].mean(axis=(1, 2, 3))
    assert np.abs(greys - [0, 68.7, 127.5, 214.2, 255]).max() < 2
    assert found.info.notes == ("wide colours were brought to the range of ordinary video (bt.709)",)


def test_colours_that_cannot_be_converted_are_told(tmp_path: Path) -> None:
    """Dolby Vision without a picture that other screens can show."""
    clip = hdr(tmp_path / "clip.mp4", [(400, 512, 512)] * 3, 2, primaries=2)
    clip.write_bytes(clip.read_bytes().replace(b"hev1", b"dvhe"))
    assert "Dolby Vision" in read(clip).info.notes[0]
    assert probe(clip).form.transfer == "Dolby Vision"


# Interlaced pictures

MPEG2 = {"qscale": "2", "flags": "+ildct+ilme"}


def interlaced(path: Path, images: Sequence[np.ndarray], first: str) -> Path:
    options = {"x264-params": "tff=1" if first == "top" else "bff=1", "crf": "12", "preset": "veryfast"}
    codec = "mpeg2video" if path.suffix in (".mpg", ".m2v") else "libx264"
    return write(path, images, codec, options=MPEG2 if codec == "mpeg2video" else options)


def weave(first: np.ndarray, second: np.ndarray, top: bool) -> np.ndarray:
    made = (second if top else first).copy()
    made[::2] = (first if top else second)[::2]
    return made


def scrolled(number: int) -> np.ndarray:
    """Picture ``number`` with a square that moves."""
    image = frame_image(number)
    image[100:160] = 90
    left = 20 + 9 * number
    image[110:150, left : left + 40] = 220
    return image


@pytest.mark.parametrize(
    ("name", "first"), [("a.mp4", "top"), ("b.mkv", "bottom"), ("c.ts", "top"), ("d.mpg", "bottom")]
)
def test_interlaced_pictures_show_their_first_field(tmp_path: Path, name: str, first: str) -> None:
    """Each holds two moments; the number of the first is read, and nothing is combed."""
    moments = [scrolled(number) for number in range(2 * FEW)]
    woven = [weave(moments[i], moments[i + 1], first == "top") for i in range(0, 2 * FEW, 2)]
    clip = interlaced(tmp_path / name, woven, first)
    found = read(clip)
    assert found.indices.tolist() == list(range(FEW))
    expected = [2 * number for number in range(FEW)]
    if first == "bottom" and probe(clip).form.fields != "bottom":
        expected = [number + 1 for number in expected]  # PyAV before 18 does not tell which field comes first
    assert read_numbers(found.pixels) == expected
    for image, number, combs in zip(found.pixels, expected, woven, strict=True):
        part = (slice(105, 155), slice(None))
        error, before = (np.abs(other[part].astype(int) - moments[number][part]).mean() for other in (image, combs))
        assert error < 3 and error < before / 1.3
    assert "de-interlaced" in found.info.notes[0]


@pytest.mark.parametrize("name", ["a.mp4", "d.mpg"])
def test_progressive_pictures_that_are_called_interlaced_stay(tmp_path: Path, name: str) -> None:
    clip = interlaced(tmp_path / name, pictures(), "top")
    found = read(clip)
    assert found.info.notes == ()
    assert (found.pixels == np.array(plainly(clip))).all()
    assert read_numbers(found.pixels) == list(range(FEW))


def test_fine_noise_in_pictures_called_interlaced_stays(tmp_path: Path) -> None:
    noise = np.random.default_rng(0)
    images = [np.clip(image + noise.normal(0, 8, image.shape), 0, 255).astype(np.uint8) for image in pictures(6)]
    clip = interlaced(tmp_path / "a.mp4", images, "top")
    found, plain = read(clip), np.array(plainly(clip))
    assert np.abs(found.pixels.astype(int) - plain).mean() < 0.1
    assert read_numbers(found.pixels) == list(range(6))


def test_small_pictures_come_from_one_field(tmp_path: Path) -> None:
    moments = [frame_image(number) for number in range(2 * FEW)]
    woven = [weave(moments[i], moments[i + 1], True) for i in range(0, 2 * FEW, 2)]
    found = read(interlaced(tmp_path / "a.mp4", woven, "top"), max_side=80)
    assert read_numbers(found.pixels) == [2 * number for number in range(FEW)]


# Transparency


def transparent(count: int = FEW) -> list[np.ndarray]:
    """The lower half is clear over white, but for a half clear strip at the right."""
    made = []
    for image in pictures(count):
        alpha = np.full((*image.shape[:2], 1), 255, np.uint8)
        alpha[120:], alpha[120:, 240:] = 0, 128
        image[120:] = 255
        made.append(np.concatenate([image, alpha], axis=2))
    return made


ALPHA = [
    ("a.mov", "qtrle", "argb", {}),
    ("b.mov", "prores_ks", "yuva444p10le", {}),
    ("c.mov", "png", "rgba", {}),
    ("d.apng", "apng", "rgba", {}),
    ("e.mkv", "ffv1", "bgra", {}),
    ("f.webm", "libvpx-vp9", "yuva420p", {"crf": "10", "b": "0", "auto-alt-ref": "0"}),
    ("g.webm", "libvpx", "yuva420p", {"crf": "4", "b": "4M", "auto-alt-ref": "0"}),
]


@pytest.mark.parametrize(("name", "codec", "pix_fmt", "options"), ALPHA, ids=[row[0] for row in ALPHA])
@pytest.mark.parametrize("side", [None, 160])
def test_transparent_parts_are_black(
    tmp_path: Path, name: str, codec: str, pix_fmt: str, options: dict[str, str], side: int | None
) -> None:
    clip = write(tmp_path / name, transparent(), codec, pix_fmt, options, given="rgba")
    found = read(clip, max_side=side)
    assert read_numbers(found.pixels) == list(range(FEW))
    height, width = found.pixels.shape[1:3]
    lower = found.pixels[:, height * 5 // 8 : height * 7 // 8]
    assert lower[:, :, : width // 2].max() < 12
    assert abs(lower[:, :, width * 7 // 8 :].mean() - 128) < 6
    assert found.info.notes == ("transparent parts are shown on black",)
    assert probe(clip).form.alpha


def test_pictures_that_could_be_transparent_and_are_not_stay(tmp_path: Path) -> None:
    images = [np.concatenate([image, np.full((*image.shape[:2], 1), 255, np.uint8)], axis=2) for image in pictures()]
    clip = write(tmp_path / "a.mov", images, "qtrle", "argb", {}, given="rgba")
    found = read(clip)
    assert found.info.notes == () and (found.pixels == np.array(plainly(clip))).all()


def test_an_alpha_that_avi_leaves_empty_means_nothing(tmp_path: Path) -> None:
    images = [np.concatenate([image, np.zeros((*image.shape[:2], 1), np.uint8)], axis=2) for image in pictures()]
    found = read(write(tmp_path / "a.avi", images, "rawvideo", "bgra", {}, given="rgba"))
    assert found.info.notes == () and read_numbers(found.pixels) == list(range(FEW))


# Ordinary video, and where notes go


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuvj420p", "yuv444p"])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(("matrix", "red", "blue"), [(1, 0.2126, 0.0722), (5, 0.299, 0.114), (9, 0.2627, 0.0593)])
def test_matrix_and_range_are_followed(pix_fmt: str, full: bool, matrix: int, red: float, blue: float) -> None:
    """One colour, by the formula of the standards; the library's own default differs between its versions."""
    import av

    from vidcomp.video.readers.conform import Conformer, Form

    full = full or pix_fmt == "yuvj420p"
    frame: Any = av.VideoFrame(64, 64, pix_fmt)
    frame.colorspace, frame.color_range = matrix, 2 if full else 1
    for plane, value in zip(frame.planes, (120, 100, 160), strict=True):
        np.frombuffer(plane, np.uint8)[:] = value
    luma, cb, cr = (120 / 255, -28 / 255, 32 / 255) if full else (104 / 219, -28 / 224, 32 / 224)
    r, b = luma + 2 * (1 - red) * cr, luma + 2 * (1 - blue) * cb
    g = (luma - red * r - blue * b) / (1 - red - blue)
    shown = Conformer(Form()).rgb(frame, (64, 64))[20, 20]
    assert np.abs(shown - 255 * np.array([r, g, b])).max() < 3


def test_ordinary_pictures_are_left_alone(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", FEW)
    found = read(clip)
    assert found.info.notes == () and (found.pixels == np.array(plainly(clip))).all()
    assert probe(clip).form.unusual == ""


def test_the_command_line_says_what_was_done(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from vidcomp.cli.app import run

    def set_up(codec: Any) -> None:
        codec.sample_aspect_ratio = Fraction(2, 1)

    clip = write(tmp_path / "clip.mp4", pictures(), set_up=set_up)
    told = []
    for command in (["frames", str(clip)], ["frames", str(clip), "--json"], ["probe", str(clip)]):
        assert run(command) == 0
        told.append(capfd.readouterr())
    plain, record, looked = told
    assert "note: pixels are 2:1" in plain.err and "note" not in plain.out
    assert json.loads(record.out)["notes"] == ["pixels are 2:1, not square: pictures are stretched to 640 x 240"]
    assert "640 x 240, stored as 320 x 240 with pixels 2:1" in looked.out
