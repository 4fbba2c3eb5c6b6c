import io
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from toys import COLOURS, ROWS, write_images

from ceag_cli import images
from ceag_cli.data import open_data
from ceag_cli.decoding import decode
from ceag_cli.errors import ImageError, LabelsError
from ceag_cli.images import Images
from ceag_cli.labels import read_labels
from ceag_cli.preprocessing import Preprocessing
from ceag_cli.progress import Quiet
from ceag_cli.sharedoptions import DataOptions
from ceag_cli.splits import Split, draw_flips, flipped, normalized
from ceag_cli.stores import BEGINNING, Folder, Store, Zip, find_duplicates, open_store

RED = (255, 0, 0)


def preprocessing(size: int = 16, channels: int = 3, crop_pct: float = 1.0) -> Preprocessing:
    half = (0.5,) * channels
    return Preprocessing((channels, size, size), half, half, "bilinear", crop_pct, "center")


def read(
    store: Store, paths: list[str], size: int = 16, channels: int = 3, workers: int = 0
) -> Images:
    return Images(store, paths, preprocessing(size, channels), workers)


def everything(found: Images, count: int, batch_size: int = 5) -> tuple[list[int], Tensor]:
    """Row numbers in the order in which they came, and the pixels of row 0, 1, ..."""
    rows, pixels = [], torch.empty(0)
    for chunk, batch in found.batches(torch.arange(count), batch_size):
        rows += chunk.tolist()
        pixels = torch.cat([pixels.to(batch.dtype), batch])
    return rows, pixels


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def near(pixel: object, colour: tuple[int, ...], tolerance: int = 6) -> bool:
    assert isinstance(pixel, tuple)
    return all(abs(a - b) <= tolerance for a, b in zip(pixel, colour, strict=True))


@pytest.fixture(params=["kept", "streamed"])
def memory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whether decoded pixels fit in memory."""
    if request.param == "streamed":
        monkeypatch.setattr(images, "KEPT_IN_MEMORY", 0)
    return str(request.param)


# Where they lie


def test_images_are_found_in_the_folder_of_the_csv(tmp_path: Path) -> None:
    labels = read_labels(write_images(tmp_path))
    store = open_store(labels.csv, None, labels.paths)
    assert isinstance(store, Folder)
    assert store.root == tmp_path
    assert all(store.has(path) for path in labels.paths)


def test_a_zip_beside_the_csv_is_found_by_itself(tmp_path: Path) -> None:
    labels = read_labels(write_images(tmp_path, archive=True))
    assert not (tmp_path / "images").exists()
    store = open_store(labels.csv, None, labels.paths)
    assert isinstance(store, Zip)
    assert store.root == tmp_path / "images.zip"
    assert all(store.has(path) for path in labels.paths)


def test_a_zip_beside_the_csv_is_left_alone_where_the_folder_has_the_images(
    tmp_path: Path,
) -> None:
    labels = read_labels(write_images(tmp_path))
    zipfile.ZipFile(tmp_path / "backup.zip", "w").close()
    assert isinstance(open_store(labels.csv, None, labels.paths), Folder)


def test_of_two_zips_none_is_guessed(tmp_path: Path) -> None:
    labels = read_labels(write_images(tmp_path, archive=True))
    zipfile.ZipFile(tmp_path / "other.zip", "w").close()
    options = DataOptions(groups=str(labels.csv))
    with pytest.raises(LabelsError, match=r"name the folder or \.zip .* with --data-dir"):
        open_data(options, [], Quiet(), "dense")


@pytest.mark.parametrize("archive", [False, True], ids=["folder", "zip"])
def test_data_dir_names_a_folder_or_a_zip(tmp_path: Path, archive: bool) -> None:
    data = tmp_path / "data"
    write_images(data, archive=archive)
    csv = tmp_path / "labels.csv"
    (data / "labels.csv").rename(csv)
    where = data / "images.zip" if archive else data
    paths = read_labels(csv).paths
    store = open_store(csv, str(where), paths)
    assert store.root == where
    assert all(store.has(path) for path in paths)


def test_a_data_dir_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="--data-dir: 'nowhere' does not exist"):
        open_store(tmp_path / "l.csv", "nowhere", [])


def test_a_data_dir_that_is_no_zip_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_text("not a zip")
    with pytest.raises(ImageError, match=r"a\.zip: cannot be read as a \.zip"):
        open_store(tmp_path / "l.csv", str(tmp_path / "a.zip"), [])


# What becomes of them


@pytest.mark.parametrize("archive", [False, True], ids=["folder", "zip"])
def test_pixels_of_each_row_are_those_of_its_image(
    tmp_path: Path, archive: bool, memory: str
) -> None:
    labels = read_labels(write_images(tmp_path, archive=archive))
    found = read(open_store(labels.csv, None, labels.paths), labels.paths)
    assert (found.kept is not None) == (memory == "kept")
    rows, pixels = everything(found, ROWS)
    assert rows == list(range(ROWS))
    assert pixels.shape == (36, 3, 16, 16)
    assert pixels.dtype == torch.uint8
    for i, label in enumerate(labels.label.words()):
        colour = torch.tensor(COLOURS[label])[:, None, None]
        assert bool((pixels[i, :, :, 8:] == colour).all())
        assert bool((pixels[i, :, :, :8] == (colour - i).clamp(min=0)).all())


def test_batches_follow_the_order_asked_for_each_image_once(tmp_path: Path, memory: str) -> None:
    labels = read_labels(write_images(tmp_path))
    found = read(open_store(labels.csv, None, labels.paths), labels.paths)
    order = torch.arange(ROWS).flip(0)
    batches = list(found.batches(order, 10))
    assert [len(rows) for rows, _ in batches] == [10, 10, 10, 6]
    assert torch.cat([rows for rows, _ in batches]).tolist() == list(range(35, -1, -1))
    red = torch.cat([pixels for _, pixels in batches])[:, 0, 0, 0].tolist()
    # Row i is red where i modulo 3 is 2; row 35 comes first and is 255 - 35 bright.
    assert red == [255 - i if i % 3 == 2 else 0 for i in range(35, -1, -1)]


@pytest.mark.parametrize("archive", [False, True], ids=["folder", "zip"])
@pytest.mark.parametrize("workers", [0, 2])
def test_streamed_batches_equal_those_kept_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int, archive: bool
) -> None:
    labels = read_labels(write_images(tmp_path, archive=archive))
    store = open_store(labels.csv, None, labels.paths)
    kept = read(store, labels.paths)
    monkeypatch.setattr(images, "KEPT_IN_MEMORY", 0)
    streamed = read(store, labels.paths, workers=workers)
    assert kept.kept is not None
    assert streamed.kept is None
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(1))
    pairs = zip(kept.batches(order, 7), streamed.batches(order, 7), strict=True)
    seen: list[int] = []
    for (rows, pixels), (same_rows, same_pixels) in pairs:
        assert torch.equal(rows, same_rows)
        assert torch.equal(pixels, same_pixels)
        seen += same_rows.tolist()
    assert sorted(seen) == list(range(ROWS))


def test_what_is_kept_is_bounded_to_the_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """36 images of 3 times 16 times 16 bytes are 27,648 bytes."""
    labels = read_labels(write_images(tmp_path))
    store = open_store(labels.csv, None, labels.paths)
    monkeypatch.setattr(images, "KEPT_IN_MEMORY", 27_648)
    assert read(store, labels.paths).kept is not None
    monkeypatch.setattr(images, "KEPT_IN_MEMORY", 27_647)
    assert read(store, labels.paths).kept is None


def test_grey_input_has_one_channel(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), (255, 255, 255)).save(tmp_path / "white.png")
    Image.new("L", (8, 8), 100).save(tmp_path / "grey.png")
    found = read(Folder(tmp_path), ["white.png", "grey.png"], size=8, channels=1)
    _, pixels = everything(found, 2)
    assert pixels.shape == (2, 1, 8, 8)
    assert pixels[:, 0, 0, 0].tolist() == [255, 100]


def test_images_of_other_sizes_are_resized_and_cropped(tmp_path: Path) -> None:
    """40 x 20 pixels, left half black, right half white, at 10 x 10: the middle 20 columns."""
    image = Image.new("L", (40, 20), 0)
    image.paste(255, (20, 0, 40, 20))
    image.save(tmp_path / "wide.png")
    _, pixels = everything(read(Folder(tmp_path), ["wide.png"], size=10, channels=1), 1)
    assert pixels.shape == (1, 1, 10, 10)
    assert pixels[0, 0, 0, [0, 1, 8, 9]].tolist() == [0, 0, 255, 255]


def test_normalisation_is_by_channel() -> None:
    pixels = torch.tensor([[[[0]], [[255]], [[51]]]], dtype=torch.uint8)
    mean = torch.tensor([0.5, 0.5, 0.2])[:, None, None]
    std = torch.tensor([0.5, 0.25, 1.0])[:, None, None]
    assert normalized(pixels, mean, std).flatten().tolist() == [-1.0, 2.0, 0.0]


def test_flipping_mirrors_whole_images_left_to_right() -> None:
    pixels = torch.arange(8, dtype=torch.uint8).reshape(2, 1, 2, 2)
    mirrored = [[[[1, 0], [3, 2]]], [[[5, 4], [7, 6]]]]
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(flipped(pixels, draw_flips(2, 0.0, generator)), pixels)
    assert flipped(pixels, draw_flips(2, 1.0, generator)).tolist() == mirrored
    one = flipped(pixels, torch.tensor([False, True]))
    assert one.tolist() == [pixels[0].tolist(), mirrored[1]]
    assert 400 < int(draw_flips(1000, 0.5, generator).sum()) < 600


# Formats


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("JPEG", {"quality": 95}),
        ("WEBP", {"lossless": True}),
        ("BMP", {}),
        ("GIF", {}),
        ("TIFF", {}),
    ],
)
def test_common_formats(kind: str, options: dict[str, object]) -> None:
    image = decode(encoded(Image.new("RGB", (8, 8), RED), kind, **options), 3)
    assert image.mode == "RGB"
    assert near(image.getpixel((4, 4)), RED)


@pytest.mark.parametrize(
    ("mode", "colour", "kind", "expected"),
    [
        ("1", 1, "PNG", (255, 255, 255)),
        ("L", 100, "PNG", (100, 100, 100)),
        ("LA", (100, 255), "PNG", (100, 100, 100)),
        ("RGBA", (255, 0, 0, 255), "PNG", RED),
        ("RGBA", (255, 0, 0, 255), "WEBP", RED),
        ("P", 0, "PNG", (0, 0, 0)),
        ("CMYK", (0, 255, 255, 0), "JPEG", RED),
        ("CMYK", (0, 255, 255, 0), "TIFF", RED),
    ],
)
def test_every_mode_becomes_the_colour_that_a_person_sees(
    mode: str, colour: int | tuple[int, ...], kind: str, expected: tuple[int, ...]
) -> None:
    image = decode(encoded(Image.new(mode, (8, 8), colour), kind), 3)
    assert image.mode == "RGB"
    assert near(image.getpixel((4, 4)), expected)


def test_a_palette_becomes_its_colours() -> None:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 255, 0, 0])
    assert decode(encoded(image), 3).getpixel((4, 4)) == RED


def test_a_palette_with_transparency_becomes_its_colours_without_a_warning() -> None:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 255, 0, 0])
    content = encoded(image, transparency=bytes([0, 255]))
    assert decode(content, 3).getpixel((4, 4)) == RED


def tiff(
    pixels: bytes, bits: int, *, order: str = "<", numbers: int = 1, black: int = 1, turn: int = 1
) -> bytes:
    """A grey TIFF of 4 by 1 pixels, which Pillow cannot write in all of these ways.

    Args:
        pixels: As they lie in the file.
        bits: Of a pixel.
        order: Of bytes, ``<`` or ``>``.
        numbers: 1 unsigned, 2 signed, 3 floating point.
        black: 1 where black is zero, 0 where white is.
        turn: Orientation.
    """
    tags = {256: 4, 257: 1, 258: bits, 259: 1, 262: black, 273: 8, 274: turn, 277: 1, 278: 1}
    tags |= {279: len(pixels), 339: numbers}
    pixels += bytes(len(pixels) % 2)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8 + len(pixels))
    entries = b"".join(struct.pack(order + "HHIHH", tag, 3, 1, tags[tag], 0) for tag in tags)
    return head + pixels + struct.pack(order + "H", len(tags)) + entries + bytes(4)


SIXTEEN = (0, 16384, 32768, 65535)
"""0, a quarter, a half and all of 65,535."""

SIXTEEN_BITS = {
    "PNG": encoded(Image.frombytes("I;16", (4, 1), struct.pack("<4H", *SIXTEEN))),
    "TIFF": tiff(struct.pack("<4H", *SIXTEEN), 16),
    "TIFF of a Mac": tiff(struct.pack(">4H", *SIXTEEN), 16, order=">"),
    "TIFF whose white is zero": tiff(
        struct.pack("<4H", *(65535 - v for v in SIXTEEN)), 16, black=0
    ),
    "TIFF of 12 bits": tiff(bytes([0x00, 0x04, 0x00, 0x80, 0x0F, 0xFF]), 12),
    "PGM": b"P5\n4 1\n65535\n" + struct.pack(">4H", *SIXTEEN),
    "PGM of 10 bits": b"P5\n4 1\n1023\n" + struct.pack(">4H", 0, 256, 512, 1023),
}


@pytest.mark.parametrize("content", SIXTEEN_BITS.values(), ids=SIXTEEN_BITS.keys())
@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_more_than_eight_bits_of_grey_are_scaled_not_clipped(
    content: bytes, channels: int, mode: str
) -> None:
    image = decode(content, channels)
    assert image.mode == mode
    assert [image.convert("L").getpixel((x, 0)) for x in range(4)] == [0, 64, 128, 255]


def test_sixteen_bits_are_turned_as_well() -> None:
    content = tiff(struct.pack(">4H", *SIXTEEN), 16, order=">", turn=3)
    image = decode(content, 1)
    assert [image.getpixel((x, 0)) for x in range(4)] == [255, 128, 64, 0]


@pytest.mark.parametrize(
    ("colour", "pixels", "expected"),
    [
        (2, [0x1234, 0x5678, 0x9ABC], (0x12, 0x56, 0x9A)),
        (4, [0x1234, 0x5678], (0x12, 0x12, 0x12)),
        (6, [0x1234, 0x5678, 0x9ABC, 0x8000], (0x12, 0x56, 0x9A)),
    ],
    ids=["RGB", "LA", "RGBA"],
)
def test_of_sixteen_bits_in_colour_the_upper_eight_are_taken(
    colour: int, pixels: list[int], expected: tuple[int, ...]
) -> None:
    """PNGs of one pixel, which Pillow reads but does not write."""
    line = zlib.compress(b"\0" + struct.pack(f">{len(pixels)}H", *pixels))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 16, colour, 0, 0, 0))
    content = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", line) + chunk(b"IEND", b"")
    assert decode(content, 3).getpixel((0, 0)) == expected


@pytest.mark.parametrize(
    "content",
    [
        tiff(struct.pack("<4f", 0, 0.25, 0.5, 1), 32, numbers=3),
        tiff(struct.pack("<4I", 0, 1, 2, 2**32 - 1), 32),
        tiff(struct.pack("<4i", -1, 0, 1, 70_000), 32, numbers=2),
        tiff(struct.pack("<4h", -1, 0, 1, 300), 16, numbers=2),
    ],
    ids=["floating point", "32 bits", "signed, 32 bits", "signed, 16 bits"],
)
def test_pixels_of_unknown_range_are_refused_and_not_guessed(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(ImageError) as caught:
        Images(Folder(tmp_path), ["a.tif"], preprocessing(), place=lambda row: f"row {row + 2}")
    assert caught.value.problems == [
        f"row 2: image 'a.tif' in {tmp_path} cannot be read: its pixels are signed numbers or "
        "numbers of 32 bits, whose black and white are not known; save it with 8 or 16 bits"
    ]


TRANSPARENT = [(200, 100, 50, 0), (200, 100, 50, 128), (200, 100, 50, 255), (0, 0, 0, 0)]


@pytest.mark.parametrize(
    ("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True, "exact": True}), ("TIFF", {})]
)
def test_transparency_is_dropped(kind: str, options: dict[str, object]) -> None:
    """As by timm and torchvision; 124 is 0.299 of 200, 0.587 of 100 and 0.114 of 50."""
    image = Image.new("RGBA", (4, 1))
    image.putdata(TRANSPARENT)
    content = encoded(image, kind, **options)
    assert list(pixels_of(decode(content, 3))) == [(200, 100, 50)] * 3 + [(0, 0, 0)]
    assert list(pixels_of(decode(content, 1))) == [124, 124, 124, 0]
    grey = Image.new("LA", (2, 1))
    grey.putdata([(200, 0), (100, 128)])
    assert list(pixels_of(decode(encoded(grey), 3))) == [(200,) * 3, (100,) * 3]


def pixels_of(image: Image.Image) -> list[object]:
    width, height = image.size
    return [image.getpixel((x, y)) for y in range(height) for x in range(width)]


def test_inks_become_light() -> None:
    """Cyan, magenta, yellow, black of a JPEG as Adobe writes it: with all values inverted."""
    image = Image.new("CMYK", (64, 16))
    inks = [(0, 0, 0, 0), (255, 0, 0, 0), (0, 255, 255, 0), (0, 0, 0, 255)]
    for i, ink in enumerate(inks):
        image.paste(ink, (16 * i, 0, 16 * i + 16, 16))
    content = encoded(image, "JPEG", quality=100)
    assert b"Adobe" in content
    decoded = decode(content, 3)
    seen = [decoded.getpixel((16 * i + 8, 8)) for i in range(4)]
    expected = [(255, 255, 255), (0, 255, 255), (255, 0, 0), (0, 0, 0)]
    for found, colour in zip(seen, expected, strict=True):
        assert near(found, colour, tolerance=2)


@pytest.mark.parametrize(("kind", "options"), [("GIF", {}), ("WEBP", {"lossless": True})])
def test_of_an_animation_the_first_frame_is_taken(kind: str, options: dict[str, object]) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, (0, 255, 0), (0, 0, 255))]
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(content)).n_frames == 3  # type: ignore[attr-defined]
    assert decode(content, 3).getpixel((2, 2)) == RED


# As stored: 1 2 3 over 4 5 6. As it has to be seen, by the orientation of EXIF.
TURNED = {
    1: [[1, 2, 3], [4, 5, 6]],
    2: [[3, 2, 1], [6, 5, 4]],
    3: [[6, 5, 4], [3, 2, 1]],
    4: [[4, 5, 6], [1, 2, 3]],
    5: [[1, 4], [2, 5], [3, 6]],
    6: [[4, 1], [5, 2], [6, 3]],
    7: [[6, 3], [5, 2], [4, 1]],
    8: [[3, 6], [2, 5], [1, 4]],
}


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True})])
@pytest.mark.parametrize(("orientation", "seen"), TURNED.items())
def test_an_image_is_turned_as_its_exif_says(
    orientation: int, seen: list[list[int]], kind: str, options: dict[str, object]
) -> None:
    image = Image.fromarray(np.array([[10, 20, 30], [40, 50, 60]], np.uint8)).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = decode(encoded(image, kind, exif=exif, **options), 3)
    assert np.asarray(turned)[:, :, 0].tolist() == [[10 * v for v in line] for line in seen]


def test_a_jpeg_is_turned_as_its_exif_says() -> None:
    """Orientation 6: the camera was held upright, the picture is stored on its side."""
    image = Image.new("L", (16, 8), 0)
    image.paste(255, (0, 0, 8, 8))  # the stored left is the top of the scene
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = decode(encoded(image, "JPEG", exif=exif, quality=100), 1)
    assert turned.size == (8, 16)
    assert turned.getpixel((4, 2)) == 255
    assert turned.getpixel((4, 13)) == 0


# Images that cannot be read


def chunk(kind: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


def png_cut_between_chunks() -> bytes:
    """A PNG whose pixels are in two chunks, the head of the second of which is damaged."""
    pixels = zlib.compress(bytes(range(256)) * 8 + b"\0" * 8)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 256, 8, 8, 0, 0, 0, 0))
    half = len(pixels) // 2
    second = b"\0\0\0\1\0\0\0\0" + chunk(b"IDAT", pixels[half:])[8:]
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", pixels[:half]) + second


def jpeg_with_damaged_exif() -> bytes:
    whole = encoded(Image.new("RGB", (8, 8), RED), "JPEG")
    exif = b"Exif\0\0this is not a TIFF header"
    return whole[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + whole[2:]


BROKEN: dict[str, Callable[[], bytes]] = {
    "zero bytes": lambda: b"",
    "text": lambda: b"this is text, not an image",
    "truncated PNG": lambda: encoded(Image.effect_noise((64, 64), 50))[:1500],
    "truncated JPEG": lambda: encoded(Image.effect_noise((64, 64), 50), "JPEG")[:1500],
    "PNG header alone": lambda: encoded(Image.new("L", (8, 8)))[:40],
    "PNG with a damaged chunk": png_cut_between_chunks,
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_image_is_named(tmp_path: Path, memory: str, content: Callable[[], bytes]) -> None:
    Image.new("RGB", (8, 8), RED).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(content())
    with pytest.raises(ImageError) as caught:
        everything(read(Folder(tmp_path), ["good.png", "bad.png"]), 2)
    (problem,) = caught.value.problems
    assert problem.startswith(f"image 'bad.png' in {tmp_path} cannot be read: ")
    assert len(problem) > len(f"image 'bad.png' in {tmp_path} cannot be read: ")


def test_the_reason_is_in_words_that_a_user_understands(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_text("text")
    with pytest.raises(ImageError) as caught:
        read(Folder(tmp_path), ["bad.png"])
    assert "BytesIO object at" not in str(caught.value)


def test_an_image_with_damaged_exif_is_read_or_named(tmp_path: Path) -> None:
    """Its pixels are whole; what must not happen is a crash."""
    (tmp_path / "a.jpg").write_bytes(jpeg_with_damaged_exif())
    try:
        _, pixels = everything(read(Folder(tmp_path), ["a.jpg"]), 1)
    except ImageError:
        return
    assert int(pixels[0, 0].min()) > 200


def test_all_broken_images_are_named_together(tmp_path: Path) -> None:
    for i in range(4):
        Image.new("RGB", (8, 8), RED).save(tmp_path / f"{i}.png")
    (tmp_path / "1.png").write_bytes(b"")
    (tmp_path / "3.png").write_text("text")
    with pytest.raises(ImageError) as caught:
        read(Folder(tmp_path), [f"{i}.png" for i in range(4)])
    assert [problem.split("'")[1] for problem in caught.value.problems] == ["1.png", "3.png"]


def test_images_that_are_decoded_meanwhile_are_the_same(tmp_path: Path) -> None:
    write_images(tmp_path)
    paths = [f"images/{i}.png" for i in range(ROWS)]
    arguments = (Folder(tmp_path), paths, preprocessing())
    kept, passing = Images(*arguments), Images(*arguments, keep=False)
    assert passing.kept is None
    assert torch.equal(everything(passing, ROWS)[1], everything(kept, ROWS)[1])
    # Broken ones are named together all the same, those of later batches too.
    for i in (3, 30):
        (tmp_path / f"images/{i}.png").write_text("text")
    with pytest.raises(ImageError) as caught:
        everything(Images(*arguments, keep=False), ROWS)
    assert [problem.split("'")[1] for problem in caught.value.problems] == [paths[3], paths[30]]


def test_the_state_of_an_image_changes_when_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"1234")
    folder = Folder(tmp_path)
    before = folder.state("a.png")
    assert folder.state("a.png") == before
    path.write_bytes(b"4321")
    os.utime(path, ns=(0, before[1] + 1))
    assert folder.state("a.png") != before
    for content in ("1234", "4321"):
        with zipfile.ZipFile(tmp_path / f"{content}.zip", "w") as archive:
            archive.writestr("a.png", content)
    first, second = Zip(tmp_path / "1234.zip"), Zip(tmp_path / "4321.zip")
    assert first.state("a.png") != second.state("a.png")


def test_at_most_twenty_broken_images_are_shown_and_the_rest_is_counted(tmp_path: Path) -> None:
    for i in range(23):
        (tmp_path / f"{i}.png").touch()
    with pytest.raises(ImageError) as caught:
        read(Folder(tmp_path), [f"{i}.png" for i in range(23)])
    assert len(caught.value.problems) == 21
    assert caught.value.problems[20] == "and 3 more images that cannot be read"


def test_a_broken_image_does_not_shift_the_others(tmp_path: Path, memory: str) -> None:
    """timm's loader would put a neighbour in its place."""
    for i in range(3):
        Image.new("L", (8, 8), 10 * i).save(tmp_path / f"{i}.png")
    (tmp_path / "1.png").write_bytes(b"")
    paths = ["0.png", "1.png", "2.png"]
    with pytest.raises(ImageError):
        everything(read(Folder(tmp_path), paths, channels=1), 3)
    Image.new("L", (8, 8), 10).save(tmp_path / "1.png")
    _, pixels = everything(read(Folder(tmp_path), paths, channels=1), 3)
    assert pixels[:, 0, 0, 0].tolist() == [0, 10, 20]


def test_an_image_that_vanishes_after_the_check_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"image 'gone\.png' in .* cannot be read: .*No such file"):
        read(Folder(tmp_path), ["gone.png"])


def damaged_zip(path: Path, compression: int) -> Path:
    """A zip whose entry ``a.bmp`` begins with bytes that are neither BMP nor deflated data."""
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("a.bmp", encoded(Image.new("L", (32, 32)), "BMP"))
    whole = bytearray(path.read_bytes())
    start = 30 + len("a.bmp")  # of the entry's data, after its head
    whole[start : start + 4] = b"\xff" * 4
    path.write_bytes(whole)
    return path


@pytest.mark.parametrize(
    "compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["stored", "deflated"]
)
def test_a_damaged_entry_of_a_zip_is_named(tmp_path: Path, compression: int, memory: str) -> None:
    store = Zip(damaged_zip(tmp_path / "i.zip", compression))
    with pytest.raises(ImageError, match=r"image 'a\.bmp' in .*i\.zip cannot be read: "):
        everything(read(store, ["a.bmp"]), 1)


def test_an_encrypted_entry_of_a_zip_is_named(tmp_path: Path) -> None:
    path = tmp_path / "i.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.png", encoded(Image.new("L", (8, 8))))
    whole = bytearray(path.read_bytes())
    whole[6] |= 1  # the flag "encrypted", in the entry's head
    whole[whole.rindex(b"PK\x01\x02") + 8] |= 1  # and in the directory
    path.write_bytes(whole)
    with pytest.raises(ImageError, match=r"image 'a\.png' in .* cannot be read: "):
        read(Zip(path), ["a.png"])


# Duplicates


@pytest.fixture(params=["folder", "zip"])
def store_of(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Store]:
    def make(**contents: bytes) -> Store:
        if request.param == "zip":
            with zipfile.ZipFile(tmp_path / "i.zip", "w") as file:
                for name, content in contents.items():
                    file.writestr(name, content)
            return Zip(tmp_path / "i.zip")
        for name, content in contents.items():
            (tmp_path / name).write_bytes(content)
        return Folder(tmp_path)

    return make


def test_images_of_test_or_val_that_are_also_in_train_are_found_with_the_first_of_them(
    store_of: Callable[..., Store],
) -> None:
    store = store_of(a=b"11", b=b"11", c=b"11", d=b"22", e=b"33", f=b"22", g=b"55")
    splits = np.array([0, 2, 1, 0, 2, 0, 2])
    assert find_duplicates(store, list("abcdefg"), splits) == [(1, 0), (2, 0)]


def test_equal_images_within_train_do_not_count(store_of: Callable[..., Store]) -> None:
    store = store_of(a=b"11", b=b"11", c=b"22")
    assert find_duplicates(store, list("abc"), np.array([0, 0, 2])) == []


def test_images_of_equal_size_that_differ_do_not_count(store_of: Callable[..., Store]) -> None:
    assert find_duplicates(store_of(a=b"11", b=b"12"), list("ab"), np.array([0, 2])) == []


def test_images_that_only_begin_alike_do_not_count(store_of: Callable[..., Store]) -> None:
    start = bytes(BEGINNING)
    store = store_of(a=start + b"1", b=start + b"2", c=start + b"1")
    assert find_duplicates(store, list("ab"), np.array([0, 2])) == []
    assert find_duplicates(store, list("abc"), np.array([0, 2, 2])) == [(2, 0)]


def test_of_files_that_begin_otherwise_the_rest_is_not_read(tmp_path: Path) -> None:
    class Beginnings(Folder):
        def read(self, path: str) -> bytes:
            raise AssertionError(f"{path} is read")

    for name in "abc":
        (tmp_path / name).write_text(name * 9)
    store = Beginnings(tmp_path)
    assert find_duplicates(store, list("abc"), np.array([0, 2, 2])) == []
    assert store.beginning("b") == b"bbbbbbbbb"


# Parts of a split


def test_a_part_of_a_split_has_its_images_with_all_that_is_said_of_them() -> None:
    class Numbered:
        """The picture of row i is one pixel of value i."""

        def batches(self, order: Tensor, sizes: int | list[int]) -> Iterator[tuple[Tensor, Tensor]]:
            for rows in torch.split(order, sizes):
                yield rows, rows.to(torch.uint8).reshape(-1, 1, 1, 1)

    split = Split("train", Numbered(), torch.arange(6) * 10, torch.arange(6)[:, None])
    chosen = torch.tensor([False, True, False, True, True, False])
    part = split.only(chosen, "val")
    assert (part.name, len(part)) == ("val", 3)
    assert part.targets.tolist() == [10, 30, 40]
    assert part.groups.tolist() == [[1], [3], [4]]
    batches = list(part.images.batches(torch.tensor([2, 0, 1]), 2))
    assert [rows.tolist() for rows, _ in batches] == [[2, 0], [1]]
    assert [pixels.reshape(-1).tolist() for _, pixels in batches] == [[4, 1], [3]]
    # A part of a part.
    last = part.only(torch.tensor([False, False, True]), "one")
    ((rows, pixels),) = last.images.batches(torch.tensor([0]), 8)
    assert (rows.tolist(), pixels.reshape(-1).tolist()) == ([0], [4])
