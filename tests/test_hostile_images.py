"""Images, folders and archives made to do harm: refused by row or name, in no time."""

from __future__ import annotations

import io
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from toys import HALF, ceag

from ceag_cli.contents import Records
from ceag_cli.data import Data, open_data
from ceag_cli.decoding import FORMATS, decode
from ceag_cli.errors import CeagError, ImageError
from ceag_cli.images import Images
from ceag_cli.pixels import PixelCache
from ceag_cli.progress import Quiet
from ceag_cli.readers import list_images
from ceag_cli.references import DatasetReference
from ceag_cli.sharedoptions import DataOptions
from ceag_cli.stores import Folder, Zip


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``data/a.png`` and a CSV that names it, ``elsewhere/b.png``; the parent is current."""
    (tmp_path / "data").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "data" / "a.png").write_bytes(encoded("PNG"))
    (tmp_path / "elsewhere" / "b.png").write_bytes(encoded("PNG"))
    rows("a.png", at=tmp_path / "data")
    monkeypatch.chdir(tmp_path)


def encoded(kind: str, size: tuple[int, int] = (8, 8)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, (255, 0, 0)).save(stream, kind)
    return stream.getvalue()


def rows(*paths: str, at: Path = Path("data")) -> None:
    lines = [f"{path},cat,train,x" for path in paths]
    (at / "labels.csv").write_text("\n".join(["path,label,split,group", *lines, ""]))


def opened(**options: object) -> Data:
    """The data of ``data/labels.csv``; every problem of it is raised."""
    data = open_data(DataOptions(groups="data/labels.csv", **options), [], Quiet(), "dense")  # type: ignore[arg-type]
    data.labels.raise_problems()
    return data


def refused(read: Callable[[], object]) -> str:
    with pytest.raises(CeagError) as caught:
        read()
    return str(caught.value)


# Links, pipes and devices in a folder

OUTSIDE = (
    "data/labels.csv row 2: image '{}' is behind a link, and lies outside the data folder; name "
    "the folder that it leads to with --data-dir, or allow such images with --allow-outside"
)


def test_a_link_to_an_image_elsewhere_is_refused_unless_allowed() -> None:
    Path("data/b.png").symlink_to("../elsewhere/b.png")
    rows("b.png", "a.png")
    assert refused(opened) == OUTSIDE.format("b.png")
    assert opened(allow_outside=True).store.read("b.png") == encoded("PNG")


def test_a_link_to_a_folder_elsewhere_is_refused_unless_allowed() -> None:
    Path("data/sub").symlink_to("../elsewhere")
    rows("sub/b.png")
    assert refused(opened) == OUTSIDE.format("sub/b.png")
    assert opened(allow_outside=True).store.read("sub/b.png") == encoded("PNG")


def test_links_within_the_folder_and_to_the_folder_are_followed() -> None:
    Path("data/sub").mkdir()
    Path("data/sub/c.png").symlink_to("../a.png")
    Path("data/again").symlink_to("sub")
    rows("sub/c.png", "again/c.png")
    opened()
    Path("link").symlink_to("data")
    opened(data_dir="link")


@pytest.mark.parametrize("path", ["../elsewhere/b.png", "{}/elsewhere/b.png"])
def test_paths_outside_are_refused_unless_allowed(path: str) -> None:
    path = path.format(Path().resolve())
    rows(path)
    assert refused(opened) == f"data/labels.csv row 2: path '{path}' lies outside the data folder"
    assert opened(allow_outside=True).store.read(path) == encoded("PNG")


def test_the_option_is_one_of_the_command_line() -> None:
    rows("../elsewhere/b.png")
    command = ("dense", "--groups", "data/labels.csv", "--model", "test_resnet", "--epochs", "1")
    assert "lies outside the data folder" in ceag(*command).stderr
    assert "lies outside" not in ceag(*command, "--allow-outside").stderr


def test_links_that_go_round_in_circles_are_no_images() -> None:
    Path("data/b.png").symlink_to("c.png")
    Path("data/c.png").symlink_to("b.png")
    Path("data/round").symlink_to(".")
    rows("b.png", "round/" * 60 + "a.png", "a.png")
    first, second = refused(opened).splitlines()
    assert first == "data/labels.csv row 2: image 'b.png' is a link that leads back to itself"
    assert second.startswith("data/labels.csv row 3: ")


@pytest.mark.parametrize("path", ["pipe.png", "null.png", "sub"])
def test_pipes_and_devices_are_no_images(path: str) -> None:
    os.mkfifo("data/pipe.png")
    Path("data/null.png").symlink_to("/dev/zero")
    Path("data/sub").mkdir()
    rows(path, "a.png")
    problem = refused(lambda: opened(allow_outside=True))
    assert problem == (
        f"data/labels.csv row 2: image '{path}' in data is a folder, a pipe or a device, not a file"
    )


def test_a_pipe_that_takes_the_place_of_an_image_is_not_waited_for() -> None:
    store = opened().store
    Path("data/a.png").unlink()
    os.mkfifo("data/a.png")
    with pytest.raises(ImageError, match="is a pipe or a device"):
        Images(store, ["a.png"], HALF)


def test_an_image_of_a_gigabyte_is_not_read() -> None:
    with Path("data/large.png").open("wb") as file:
        file.truncate(2**30)  # takes no room
    rows("large.png", "a.png")
    assert "has 1073741824 bytes; no image of more than" in refused(opened)


# Archives


def archive(entries: dict[str, bytes], modes: dict[str, int] | None = None) -> None:
    with zipfile.ZipFile("i.zip", "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in entries.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (modes or {}).get(name, 0) << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            file.writestr(info, content)


def test_a_link_in_a_zip_is_never_followed() -> None:
    archive({"a.png": b"/etc/passwd", "b.png": encoded("PNG")}, {"a.png": stat.S_IFLNK | 0o777})
    rows("a.png", "b.png")
    for allowed in (False, True):
        assert refused(lambda: opened(data_dir="i.zip", allow_outside=allowed)) == (  # noqa: B023
            "data/labels.csv row 2: image 'a.png' is behind a link, and lies outside the data "
            "folder; in a .zip no link is followed"
        )


def test_names_of_a_zip_that_leave_it_are_never_looked_up() -> None:
    archive({"../a.png": encoded("PNG"), "/b.png": encoded("PNG"), "c.png": encoded("PNG")})
    rows("../a.png", "/b.png", "c.png")
    problems = refused(lambda: opened(data_dir="i.zip")).splitlines()
    assert len(problems) == 2
    assert all("lies outside the data folder" in problem for problem in problems)


def lying_zip(size: int) -> None:
    """An archive whose directory says another size of an image."""
    archive({"a.png": encoded("PNG")})
    content = bytearray(Path("i.zip").read_bytes())
    place = content.rindex(b"PK\x01\x02")
    content[place + 24 : place + 28] = struct.pack("<I", size)
    Path("i.zip").write_bytes(content)


@pytest.mark.parametrize("size", [0, 1, 2**31])
def test_a_zip_that_lies_about_a_size_is_refused(size: int) -> None:
    lying_zip(size)
    store = Zip(Path("i.zip"))
    assert not store.has("a.png") or refused(lambda: Images(store, ["a.png"], HALF))


def test_a_zip_of_zeros_is_no_image() -> None:
    archive({"a.png": b"\0" * 50_000_000})
    with pytest.raises(ImageError, match="not an image of a known format"):
        Images(Zip(Path("i.zip")), ["a.png"], HALF)


@pytest.mark.parametrize("cut", [10, 40, 80, -10])
def test_a_damaged_zip_is_refused(cut: int) -> None:
    archive({"a.png": encoded("PNG")})
    Path("i.zip").write_bytes(Path("i.zip").read_bytes()[:cut])
    assert refused(lambda: opened(data_dir="i.zip")).startswith("i.zip: cannot be read as a .zip")


def test_damaged_images_of_a_zip_that_look_alike_are_named_when_they_are_decoded() -> None:
    """They are looked at before that, for copies in other splits."""
    archive({"a.png": encoded("PNG"), "b.png": encoded("PNG")})
    content = bytearray(Path("i.zip").read_bytes())
    for name in (b"a.png", b"b.png"):
        place = content.index(name) + len(name)
        content[place] ^= 0xFF
    Path("i.zip").write_bytes(content)
    Path("data/labels.csv").write_text(
        "path,label,split,group\na.png,cat,train,x\nb.png,cat,test,x\n"
    )
    data = opened(data_dir="i.zip")
    data.duplicates()
    with pytest.raises(ImageError, match=r"image 'a\.png' in i\.zip cannot be read"):
        Images(data.store, ["a.png", "b.png"], HALF)


# Data sets of timm


def listed(kind: str, place: str, **more: bool) -> list[str]:
    (listing,) = list_images(DatasetReference(kind), place, **more)
    return list(listing.names or ())


def test_a_folder_is_gone_through_once_whatever_links_there_are() -> None:
    """Two links to the folder itself would make timm go round 2^40 times."""
    Path("data/cat").mkdir()
    Path("data/cat/a.png").write_bytes(encoded("PNG"))
    for name in ("one", "two"):
        Path("data", name).symlink_to(".")
    problem = refused(lambda: listed("folder", "data"))
    assert problem.splitlines()[0] == "data: 'one' is the same folder as '.', by a link"
    assert "same folder" in refused(lambda: listed("torch/image_folder", "data"))


def test_links_out_of_a_folder_are_refused_unless_allowed() -> None:
    Path("data/cat").symlink_to("../elsewhere")
    assert "lies outside the data folder" in refused(lambda: listed("folder", "data"))
    assert listed("folder", "data", allow_outside=True) == ["a.png", "cat/b.png"]
    Path("data/cat").unlink()
    Path("data/b.png").symlink_to("../elsewhere/b.png")
    assert "lies outside the data folder" in refused(lambda: listed("folder", "data"))


def test_pipes_in_a_folder_are_refused() -> None:
    os.mkfifo("data/pipe.png")
    assert refused(lambda: listed("folder", "data")) == "data: 'pipe.png' is no file"


Member = tuple[tarfile.TarInfo, bytes]


def tar(*members: Member) -> None:
    with tarfile.open("i.tar", "w") as file:
        for info, content in members:
            file.addfile(info, io.BytesIO(content))


def member(
    name: str, content: bytes, kind: bytes = tarfile.REGTYPE
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(content) if kind == tarfile.REGTYPE else 0
    info.linkname = "/etc/passwd"
    return info, content


def test_links_and_devices_of_a_tar_are_passed_over() -> None:
    png = encoded("PNG")
    kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE)
    links = [member(f"{i}.png", b"", kind) for i, kind in enumerate(kinds)]
    tar(*links, member("a.png", png))
    assert listed("tar", "i.tar") == ["a.png"]


def test_members_of_a_tar_that_leave_it_are_read_where_they_lie_and_nowhere_else() -> None:
    tar(member("../../a.png", encoded("PNG")), member("/etc/b.png", encoded("PNG")))
    (listing,) = list_images(DatasetReference("tar"), "i.tar")
    assert listing.contents.read(0) == encoded("PNG")
    rows("../../a.png")
    assert "lies outside the data folder" in refused(
        lambda: opened(dataset="tar", data_dir="i.tar", unlisted="drop", dataset_labels="ignore")
    )


def test_a_tar_that_lies_about_a_size_is_refused() -> None:
    tar(member("a.png", encoded("PNG")))
    content = bytearray(Path("i.tar").read_bytes())
    content[124:136] = b"77777777777\0"  # octal
    content[148:156] = b"        "
    content[148:156] = b"%06o\0 " % sum(content[:512])
    Path("i.tar").write_bytes(content)
    assert refused(lambda: listed("tar", "i.tar")).startswith("i.tar: ")


@pytest.mark.parametrize("content", [b"", b"\0" * 3000, b"x" * 3000, b"\xff" * 600])
def test_a_damaged_tar_is_refused(content: bytes) -> None:
    Path("i.tar").write_bytes(content)
    assert refused(lambda: listed("tar", "i.tar")).startswith("i.tar: ")


def test_shards_in_braces_are_counted_before_they_are_named() -> None:
    pytest.importorskip("webdataset")
    split = "train-{0..9}{0..9}{0..9}{0..9}{0..9}{0..9}{0..9}{0..9}.tar"
    reference = DatasetReference("wds", {"train": split})
    assert "stands for 100000000 shards" in refused(lambda: list_images(reference, "data"))


@pytest.mark.parametrize("path", ["/etc/passwd", "../elsewhere/b.png", "/dev/zero", "pipe.png"])
def test_files_that_records_name_have_to_lie_in_the_folder(path: str) -> None:
    os.mkfifo("data/pipe.png")
    records = Records([{"image": {"path": path}}], "image", Folder(Path("data")))
    with pytest.raises(OSError, match=r"outside the data folder|no image|not a file"):
        records.read(0)
    inside = Records([{"image": {"path": "a.png"}}], "image", Folder(Path("data")))
    assert inside.read(0) == encoded("PNG")


def test_a_description_of_a_data_set_cannot_be_a_bomb() -> None:
    pytest.importorskip("datasets")
    laughs = "\n".join(
        [
            "a0: &a0 [1, 1, 1]",
            *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)),
        ]
    )
    Path("data/README.md").write_text(f"---\n{laughs}\nconfigs: *a8\n---\n")
    reference = DatasetReference("hfds/data", {"train": "train"})
    assert "stands for more than" in refused(lambda: list_images(reference, None))


# Bytes of an image


def png_of(width: int, height: int) -> bytes:
    """A PNG that says to be so large; its pixels are a few zeros."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    return b"\x89PNG\r\n\x1a\n" + head + body + chunk(b"IEND", b"")


def bmp_of(width: int, height: int) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + header


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(owned) (w) file\nshowpage\n"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'

UNREADABLE: dict[str, tuple[bytes, str]] = {
    "100,000 x 100,000": (png_of(100_000, 100_000), "pixels"),
    "20,000 x 20,000": (png_of(20_000, 20_000), "pixels"),
    "15,000 x 12,000 of nothing": (png_of(15_000, 12_000), "pixels"),
    "a bitmap of 2^31": (bmp_of(2**31 - 1, 2**31 - 1), "pixels"),
    "no pixels": (png_of(0, 0), ""),
    "no bytes": (b"", "not an image of a known format"),
    "text": (b"hello", "not an image of a known format"),
    "SVG": (SVG, "not an image of a known format"),
    "PostScript": (POSTSCRIPT, "not an image of a known format"),
    "HTML": (b"<html>", "not an image of a known format"),
    "half a PNG": (encoded("PNG")[:40], ""),
    "half a JPEG": (encoded("JPEG", (64, 64))[:300], "runcated"),
    "half a GIF": (encoded("GIF")[:15], ""),
    "half a WebP": (encoded("WEBP")[:20], ""),
    "half a TIFF": (encoded("TIFF")[:20], ""),
    "a TIFF that leads back": (b"II*\0\x08\0\0\0" + b"\xff" * 60, ""),
}


@pytest.mark.parametrize(("content", "reason"), UNREADABLE.values(), ids=UNREADABLE.keys())
def test_an_image_that_is_none_is_named(content: bytes, reason: str) -> None:
    Path("data/bad.jpg").write_bytes(content)
    with pytest.raises(ImageError) as caught:
        Images(Folder(Path("data")), ["bad.jpg"], HALF, place=lambda row: "l.csv row 2")
    (problem,) = caught.value.problems
    assert problem.startswith("l.csv row 2: image 'bad.jpg' in data cannot be read: ")
    assert reason in problem


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "TIFF", "WEBP", "JPEG"])
def test_a_name_says_nothing_of_the_format(kind: str) -> None:
    Path("data/a.jpg").write_bytes(encoded(kind))
    found = Images(Folder(Path("data")), ["a.jpg"], HALF)
    assert found.kept is not None
    assert found.kept[0, 0].float().mean() > 250


def test_an_image_that_is_only_large_is_read_without_a_warning() -> None:
    stream = io.BytesIO()
    Image.new("1", (9_500, 9_500)).save(stream, "PNG")
    assert decode(stream.getvalue(), 1).size == (9_500, 9_500)


def test_no_format_is_read_that_another_program_reads() -> None:
    assert "EPS" in Image.OPEN
    assert "EPS" not in FORMATS


# Pixels that were kept


def test_a_file_of_pixels_cut_short_while_it_is_read_is_damage_and_no_crash() -> None:
    store = Folder(Path("data"))
    cache = PixelCache(Path("pixels"), 10**9, Quiet())
    found = Images(store, ["a.png"], HALF, keep=False, cache=cache)
    assert found.in_cache is not None
    (path,) = Path("pixels").glob("*.npy")
    os.truncate(path, 200)
    ((_, pixels),) = found.batches(torch.tensor([0]), 1)
    expected = Images(store, ["a.png"], HALF).kept
    assert expected is not None
    assert np.array_equal(pixels.numpy(), expected.numpy())


@pytest.mark.parametrize("size", [0, 10, 128, 400])
def test_a_file_of_pixels_cut_short_before_it_is_opened_is_made_anew(size: int) -> None:
    cache = PixelCache(Path("pixels"), 10**9, Quiet())
    Images(Folder(Path("data")), ["a.png"], HALF, cache=cache)
    (path,) = Path("pixels").glob("*.npy")
    whole = path.read_bytes()
    os.truncate(path, size)
    Images(Folder(Path("data")), ["a.png"], HALF, cache=cache)
    assert path.read_bytes() == whole
