"""The folder of decoded pixels: never other pixels than decoding gives, whatever happens to it."""

import multiprocessing
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from toys import ROWS, TINY, ceag, done, write_images

from ceag_cli import images
from ceag_cli.errors import ImageError
from ceag_cli.images import Images
from ceag_cli.pixels import PixelCache
from ceag_cli.preprocessing import Preprocessing
from ceag_cli.stores import Folder, Store, Zip

PATHS = [f"images/{i}.png" for i in range(ROWS)]
SIZE = 128 + ROWS * 3 * 16 * 16 + 4 * ROWS
"""Of a file: the head of an .npy, the pixels, a checksum of 4 bytes for each image."""


class Noting:
    """A reporter that keeps what it hears."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.warned: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def warn(self, text: str) -> None:
        self.warned.append(text)


def cache(folder: Path, most: int = 10**9) -> tuple[PixelCache, Noting]:
    noting: Noting = Noting()
    return PixelCache(folder / "cache", most, noting), noting  # type: ignore[arg-type]


def prepared(size: int = 16, **changes: object) -> Preprocessing:
    arguments: dict[str, object] = {
        "input_size": (3, size, size),
        "mean": (0.5,) * 3,
        "std": (0.5,) * 3,
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "crop_mode": "center",
    }
    return Preprocessing(**(arguments | changes))  # type: ignore[arg-type]


def pixels_of(found: Images) -> Tensor:
    """Of all rows, taken in another order."""
    order = torch.arange(ROWS).flip(0)
    return torch.cat([batch for _, batch in found.batches(order, 7)]).flip(0)


def decoded(store: Store, preprocessing: Preprocessing | None = None) -> Tensor:
    return pixels_of(Images(store, PATHS, preprocessing or prepared()))


def files(folder: Path) -> list[Path]:
    return sorted((folder / "cache").glob("[0-9]*"))


@pytest.fixture
def forbidden(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Makes decoding an error from when it is called."""

    def forbid() -> None:
        def refuse(content: bytes, channels: int) -> Image.Image:
            raise AssertionError("an image is decoded")

        monkeypatch.setattr(images, "decode", refuse)

    return forbid


@pytest.mark.parametrize("archive", [False, True], ids=["folder", "zip"])
@pytest.mark.parametrize("keep", [False, True], ids=["streamed", "kept"])
def test_the_second_run_decodes_nothing_and_has_the_same_pixels(
    tmp_path: Path, archive: bool, keep: bool, forbidden: Callable[[], None]
) -> None:
    write_images(tmp_path, archive=archive)
    store: Store = Zip(tmp_path / "images.zip") if archive else Folder(tmp_path)
    expected = decoded(store)
    first, said = cache(tmp_path)
    made = Images(store, PATHS, prepared(), keep=keep, cache=first)
    assert torch.equal(pixels_of(made), expected)
    (path,) = files(tmp_path)
    assert path.stat().st_size == SIZE
    assert (said.said, said.warned) == ([f"pixels kept in {path}"], [])
    forbidden()
    second, said = cache(tmp_path)
    again = Images(store, PATHS, prepared(), keep=keep, cache=second)
    assert torch.equal(pixels_of(again), expected)
    assert (said.said, said.warned) == ([f"pixels from {path}"], [])
    # It is a plain file that others can read, in a folder that backups leave out.
    assert np.array_equal(np.load(path, mmap_mode="r"), expected.numpy())
    assert path.name.startswith("36x3x16x16-")
    tag = (tmp_path / "cache" / "CACHEDIR.TAG").read_text()
    assert tag.startswith("Signature: 8a477f597d28d172789f06886806bc55\n")


@pytest.mark.parametrize(
    "other",
    [
        prepared(8),
        prepared(interpolation="bicubic"),
        prepared(crop_pct=0.5),
        prepared(crop_mode="squash"),
        prepared(input_size=(1, 16, 16), mean=(0.5,), std=(0.5,)),
    ],
    ids=["size", "interpolation", "crop", "crop mode", "channels"],
)
def test_another_preprocessing_has_pixels_of_its_own(tmp_path: Path, other: Preprocessing) -> None:
    write_images(tmp_path, size=24)
    store = Folder(tmp_path)
    where, said = cache(tmp_path)
    Images(store, PATHS, prepared(), cache=where)
    found = Images(store, PATHS, other, cache=where)
    assert torch.equal(pixels_of(found), decoded(store, other))
    assert len(files(tmp_path)) == 2
    # Normalisation comes after the pixels.
    Images(store, PATHS, prepared(mean=(0.1, 0.2, 0.3)), cache=where)
    assert len(files(tmp_path)) == 2
    assert said.warned == []


@pytest.mark.parametrize("name", ["DECODING", "PIL", "timm", "torchvision"])
def test_other_versions_have_pixels_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    write_images(tmp_path)
    where, _ = cache(tmp_path)
    Images(Folder(tmp_path), PATHS, prepared(), cache=where)
    monkeypatch.setattr(
        {
            "DECODING": "ceag_cli.images.DECODING",
            "PIL": "PIL.__version__",
            "timm": "timm.__version__",
            "torchvision": "torchvision.__version__",
        }[name],
        "other",
    )
    Images(Folder(tmp_path), PATHS, prepared(), cache=where)
    assert len(files(tmp_path)) == 2


def replaced_by_one_of_the_same_size_and_date(folder: Path) -> None:
    path = folder / PATHS[5]
    before = path.stat()
    image = Image.open(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    path.unlink()
    image.save(path)
    path.write_bytes(path.read_bytes()[: before.st_size].ljust(before.st_size, b"\0"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def test_a_changed_image_is_never_given_as_it_was(tmp_path: Path) -> None:
    write_images(tmp_path)
    store, (where, _) = Folder(tmp_path), cache(tmp_path)
    before = pixels_of(Images(store, PATHS, prepared(), cache=where))
    time.sleep(0.02)  # the clock of files has ticks
    replaced_by_one_of_the_same_size_and_date(tmp_path)
    after = pixels_of(Images(store, PATHS, prepared(), cache=where))
    assert not torch.equal(after[5], before[5])
    assert torch.equal(after, decoded(store))


def test_a_changed_image_of_a_zip_is_never_given_as_it_was(tmp_path: Path) -> None:
    write_images(tmp_path, archive=True)
    where, _ = cache(tmp_path)
    archive = tmp_path / "images.zip"
    before = pixels_of(Images(Zip(archive), PATHS, prepared(), cache=where))
    contents = {name: zipfile.ZipFile(archive).read(name) for name in PATHS}
    contents[PATHS[0]], contents[PATHS[1]] = contents[PATHS[1]], contents[PATHS[0]]
    with zipfile.ZipFile(archive, "w") as file:
        for name, content in contents.items():
            file.writestr(name, content)
    after = pixels_of(Images(Zip(archive), PATHS, prepared(), cache=where))
    assert torch.equal(after[[1, 0]], before[[0, 1]])
    assert torch.equal(after, decoded(Zip(archive)))


def test_another_order_of_the_rows_is_another_file(tmp_path: Path) -> None:
    write_images(tmp_path)
    store, (where, _) = Folder(tmp_path), cache(tmp_path)
    forwards = pixels_of(Images(store, PATHS, prepared(), cache=where))
    backwards = pixels_of(Images(store, PATHS[::-1], prepared(), cache=where))
    assert torch.equal(backwards, forwards.flip(0))


# What can happen to a file


def shortened(path: Path) -> None:
    os.truncate(path, SIZE - 1)


def lengthened(path: Path) -> None:
    os.truncate(path, SIZE + 1)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def with_another_head(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[20] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [shortened, lengthened, emptied, with_another_head])
def test_a_file_that_is_not_whole_is_made_anew(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    write_images(tmp_path)
    store, (where, said) = Folder(tmp_path), cache(tmp_path)
    Images(store, PATHS, prepared(), cache=where)
    (path,) = files(tmp_path)
    damage(path)
    found = Images(store, PATHS, prepared(), cache=where)
    assert torch.equal(pixels_of(found), decoded(store))
    assert said.warned == [f"{path}: is damaged; its images are decoded anew"]
    assert files(tmp_path) == [path]
    assert path.stat().st_size == SIZE


@pytest.mark.parametrize("place", [128 + 7 * 768 + 100, SIZE - 4 * ROWS + 7 * 4])
def test_a_damaged_image_is_decoded_anew_and_so_is_the_file_by_the_next_run(
    tmp_path: Path, place: int
) -> None:
    """A byte of the pixels of image 7, or of its checksum."""
    write_images(tmp_path)
    store, (where, said) = Folder(tmp_path), cache(tmp_path)
    Images(store, PATHS, prepared(), cache=where)
    (path,) = files(tmp_path)
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    found = Images(store, PATHS, prepared(), cache=where)
    for _ in range(2):
        assert torch.equal(pixels_of(found), decoded(store))
    assert said.warned == [f"{path}: is damaged; such images are decoded anew"]
    assert files(tmp_path) == []
    Images(store, PATHS, prepared(), cache=where)
    assert files(tmp_path) == [path]


def test_a_damaged_file_that_another_run_has_replaced_is_left_alone(tmp_path: Path) -> None:
    write_images(tmp_path)
    store, (where, said) = Folder(tmp_path), cache(tmp_path)
    first, second = (Images(store, PATHS, prepared(), cache=where) for _ in range(2))
    (path,) = files(tmp_path)
    with path.open("r+b") as file:  # as both have it open
        file.seek(128)
        file.write(b"\xff" * 768)
    assert torch.equal(pixels_of(first), decoded(store))
    Images(store, PATHS, prepared(), cache=where)
    assert torch.equal(pixels_of(second), decoded(store))
    assert said.warned == [f"{path}: is damaged; such images are decoded anew"] * 2
    assert np.array_equal(np.load(path), decoded(store).numpy())


def test_the_folder_may_be_deleted_while_a_run_reads_it(tmp_path: Path) -> None:
    write_images(tmp_path)
    store, (where, said) = Folder(tmp_path), cache(tmp_path)
    found = Images(store, PATHS, prepared(), cache=where)
    shutil.rmtree(tmp_path / "cache")
    assert torch.equal(pixels_of(found), decoded(store))
    again = Images(store, PATHS, prepared(), cache=where)
    assert torch.equal(pixels_of(again), decoded(store))
    assert said.warned == []
    assert len(files(tmp_path)) == 1


def test_images_that_cannot_be_read_are_named_and_leave_nothing_behind(tmp_path: Path) -> None:
    write_images(tmp_path)
    (tmp_path / PATHS[3]).write_text("text")
    where, said = cache(tmp_path)
    with pytest.raises(ImageError, match=r"image 'images/3\.png' in .* cannot be read"):
        Images(Folder(tmp_path), PATHS, prepared(), cache=where)
    assert files(tmp_path) == []
    (tmp_path / PATHS[3]).unlink()
    with pytest.raises(ImageError, match=r"image 'images/3\.png' in .* cannot be read: .*No such"):
        Images(Folder(tmp_path), PATHS, prepared(), cache=where)
    assert said.warned == []


def test_a_folder_that_cannot_be_made_is_a_warning(tmp_path: Path) -> None:
    write_images(tmp_path)
    (tmp_path / "cache").write_text("a file")
    where, said = cache(tmp_path)
    found = Images(Folder(tmp_path), PATHS, prepared(), cache=where)
    assert torch.equal(pixels_of(found), decoded(Folder(tmp_path)))
    (warning,) = said.warned
    assert warning.startswith(f"--cache {tmp_path / 'cache'}: ")
    assert warning.endswith("; images are decoded without it")


def test_a_full_disk_is_a_warning_before_anything_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path)
    usage = shutil.disk_usage(tmp_path)._replace(free=SIZE - 1)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    where, said = cache(tmp_path)
    found = Images(Folder(tmp_path), PATHS, prepared(), cache=where)
    assert torch.equal(pixels_of(found), decoded(Folder(tmp_path)))
    assert said.warned == [
        f"--cache {tmp_path / 'cache'}: No space left on device; images are decoded without it"
    ]
    assert files(tmp_path) == []


LIMITED = """
import resource, sys
from pathlib import Path
from test_pixels import PATHS, cache, decoded, files, pixels_of, prepared
from ceag_cli.images import Images
from ceag_cli.stores import Folder
import torch
folder = Path(sys.argv[1])
expected = decoded(Folder(folder))
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
where, said = cache(folder)
assert torch.equal(pixels_of(Images(Folder(folder), PATHS, prepared(), cache=where)), expected)
assert files(folder) == []
print(*said.warned)
"""


def test_what_cannot_be_written_to_the_end_is_a_warning(tmp_path: Path) -> None:
    """A process that may write no file of more than 10,000 bytes."""
    write_images(tmp_path)
    result = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
    )
    assert result.stdout == (
        f"--cache {tmp_path / 'cache'}: File too large; images are decoded without it\n"
    )


# How much it takes


def used_at(path: Path, seconds: int) -> None:
    os.utime(path, (seconds, seconds))


def test_what_was_used_longest_ago_makes_room(tmp_path: Path) -> None:
    write_images(tmp_path)
    store, (where, said) = Folder(tmp_path), cache(tmp_path, 2 * SIZE + 1)
    names: dict[float, Path] = {}
    for crop in (0.9, 0.8):
        Images(store, PATHS, prepared(crop_pct=crop), cache=where)
        (names[crop],) = set(files(tmp_path)) - set(names.values())
    (tmp_path / "cache" / "mine.npy").write_bytes(bytes(10 * SIZE))  # counts for nothing
    used_at(names[0.9], 1000)
    used_at(names[0.8], 2000)
    Images(store, PATHS, prepared(crop_pct=0.9), cache=where)  # used again, now
    Images(store, PATHS, prepared(crop_pct=0.7), cache=where)
    left = files(tmp_path)
    assert len(left) == 2
    assert names[0.9] in left
    assert names[0.8] not in left
    assert (tmp_path / "cache" / "mine.npy").exists()
    assert said.warned == []


def test_a_file_in_use_is_never_removed(tmp_path: Path) -> None:
    write_images(tmp_path)
    store, (where, said) = Folder(tmp_path), cache(tmp_path, 2 * SIZE - 1)
    in_use = Images(store, PATHS, prepared(crop_pct=0.9), cache=where)
    (path,) = files(tmp_path)
    other = Images(store, PATHS, prepared(crop_pct=0.8), cache=where)
    assert other.in_cache is None
    assert torch.equal(pixels_of(other), decoded(store, prepared(crop_pct=0.8)))
    assert files(tmp_path) == [path]
    assert said.warned == [
        f"--cache {tmp_path / 'cache'}: what other runs use fills it up to --cache-size; images "
        "are decoded without it"
    ]
    del in_use
    Images(store, PATHS, prepared(crop_pct=0.8), cache=where)
    assert len(files(tmp_path)) == 1
    assert not path.exists()


def test_pixels_that_are_more_than_the_limit_are_a_warning(tmp_path: Path) -> None:
    write_images(tmp_path)
    where, said = cache(tmp_path, SIZE - 1)
    found = Images(Folder(tmp_path), PATHS, prepared(), cache=where)
    assert torch.equal(pixels_of(found), decoded(Folder(tmp_path)))
    assert said.warned == [
        f"--cache {tmp_path / 'cache'}: these pixels take 0.1 GB, so --cache-size has to be more; "
        "images are decoded without it"
    ]
    exactly, said = cache(tmp_path, SIZE)
    Images(Folder(tmp_path), PATHS, prepared(), cache=exactly)
    assert said.warned == []


# Several runs at once


def read_slowly(
    folder: Path, results: "multiprocessing.Queue[tuple[bool, int]]", all_read: Barrier
) -> None:
    """Fill or read as a run does, with a moment for each image; how many were decoded."""
    expected, count = decoded(Folder(folder)), 0

    class Slow(Folder):
        def read(self, path: str) -> bytes:
            nonlocal count
            count += 1
            time.sleep(0.01)
            return super().read(path)

    where, _ = cache(folder)
    found = Images(Slow(folder), PATHS, prepared(), cache=where)
    all_read.wait(60)  # nobody waits for who has filled the file to have done with it
    results.put((torch.equal(pixels_of(found), expected), count))


def test_of_runs_that_start_together_one_decodes_and_the_others_wait(tmp_path: Path) -> None:
    write_images(tmp_path)
    context = multiprocessing.get_context("fork")
    results: multiprocessing.Queue[tuple[bool, int]] = context.Queue()
    arguments = (tmp_path, results, context.Barrier(4))
    runs = [context.Process(target=read_slowly, args=arguments) for _ in range(4)]
    for run in runs:
        run.start()
    found = sorted(results.get(timeout=120) for _ in runs)
    for run in runs:
        run.join()
    assert found == [(True, 0), (True, 0), (True, 0), (True, ROWS)]
    assert [path.suffix for path in files(tmp_path)] == [".npy"]


def killed_in_the_middle(folder: Path) -> None:
    class Deadly(Folder):
        def read(self, path: str) -> bytes:
            if path == PATHS[20]:
                os._exit(9)
            return super().read(path)

    where, _ = cache(folder)
    Images(Deadly(folder), PATHS, prepared(), cache=where)


def test_what_a_killed_run_leaves_behind_is_not_taken_for_whole(tmp_path: Path) -> None:
    write_images(tmp_path)
    run = multiprocessing.get_context("fork").Process(target=killed_in_the_middle, args=(tmp_path,))
    run.start()
    run.join()
    (left,) = files(tmp_path)
    assert left.suffix == ".filling"
    # It is no hindrance to other pixels, and is cleared away with them.
    where, said = cache(tmp_path)
    Images(Folder(tmp_path), PATHS, prepared(crop_pct=0.9), cache=where)
    assert [path.suffix for path in files(tmp_path)] == [".npy"]
    left.write_bytes(bytes(SIZE))
    found = Images(Folder(tmp_path), PATHS, prepared(), cache=where)
    assert torch.equal(pixels_of(found), decoded(Folder(tmp_path)))
    assert [path.suffix for path in files(tmp_path)] == [".npy", ".npy"]
    assert said.warned == []


# Elsewhere than in memory, and how many processes decode


def test_pixels_are_held_on_the_device_where_they_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of devices only the CPU is at hand, on which nothing is held twice."""
    write_images(tmp_path)
    store, (where, _) = Folder(tmp_path), cache(tmp_path)
    expected = decoded(store)
    assert Images(store, PATHS, prepared(), cache=where).kept is None
    asked: list[torch.device] = []

    def room(size: int) -> Callable[[torch.device], int]:
        return lambda device: asked.append(device) or size  # type: ignore[func-returns-value]

    for size, held in ((expected.numel(), True), (expected.numel() - 1, False)):
        monkeypatch.setattr(images, "room_on", room(size))
        found = Images(store, PATHS, prepared(), cache=where)
        assert (found.kept is not None) == held
        assert torch.equal(pixels_of(found), expected)
    assert asked == [images.CPU] * 2


def test_a_quarter_of_the_free_memory_is_for_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (4000, 9000))
    assert images.room_on(torch.device("cuda:1")) == 1000
    assert images.room_on(torch.device("cpu")) < 0


@pytest.mark.parametrize(
    ("seconds", "cores", "workers"),
    [(2.9, 8, 0), (3.0, 8, 3), (7.5, 8, 7), (1e6, 8, 8), (1e6, 2, 2), (1e6, 1, 0)],
)
def test_processes_decode_where_they_help(seconds: float, cores: int, workers: int) -> None:
    assert images.workers_for(seconds, cores) == workers


def test_cores_are_shared_among_the_processes_of_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert images.cores() == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert images.cores() == 2
    assert images.cores(shared=False) == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "16")
    assert images.cores() == 1


def test_who_fills_the_folder_has_all_cores_while_the_others_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path)
    asked: list[int] = []

    def choose(seconds: float, cores: int) -> int:
        asked.append(cores)
        return 0

    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setattr(images, "workers_for", choose)
    where, _ = cache(tmp_path)
    Images(Folder(tmp_path), PATHS, prepared(), cache=where)
    pixels_of(Images(Folder(tmp_path), PATHS, prepared(), keep=False))
    assert asked == [8, 2]


def test_the_number_of_processes_is_chosen_by_how_long_decoding_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path)
    store = Folder(tmp_path)
    expected = decoded(store)
    asked: list[float] = []

    def choose(seconds: float, cores: int) -> int:
        asked.append(seconds)
        return 2

    clock: Iterator[float] = iter([10.0, 18.0])
    monkeypatch.setattr(images, "TIMED", 4)
    monkeypatch.setattr(images, "workers_for", choose)
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    assert torch.equal(pixels_of(Images(store, PATHS, prepared())), expected)
    assert asked == [ROWS * 2.0]  # 8 seconds for 4 images


def test_decoding_on_the_way_leaves_the_numbers_of_dropout_alone(tmp_path: Path) -> None:
    write_images(tmp_path)
    before = torch.get_rng_state()
    found = Images(Folder(tmp_path), PATHS, prepared(), keep=False)
    pixels_of(found)
    assert torch.equal(torch.get_rng_state(), before)


# From the command line


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_images(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CEAG_CACHE", raising=False)
    return tmp_path


DENSE = ("dense", "--groups", "labels.csv", *TINY, "--epochs", "1")


def test_a_cache_changes_no_result(project: Path) -> None:
    done(*DENSE, "-o", "plain.safetensors")
    assert not Path("cache").exists()
    first = done(*DENSE, "-o", "first.safetensors", "--cache", "cache")
    second = done(*DENSE, "-o", "second.safetensors", "--cache", "cache")
    assert [len(result.stderr.split("pixels kept in cache/")) for result in (first, second)] == [
        3,
        1,
    ]
    assert len(second.stderr.split("pixels from cache/")) == 3
    weights = {Path(f"{name}.safetensors").read_bytes() for name in ("plain", "first", "second")}
    assert len(weights) == 1


def test_the_environment_can_name_the_folder(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CEAG_CACHE", "elsewhere")
    done(*DENSE)
    assert len(list(Path("elsewhere").glob("*.npy"))) == 2
    done(*DENSE, "--overwrite", "--cache", "here")
    assert len(list(Path("here").glob("*.npy"))) == 2


def test_pixels_that_are_decoded_in_every_pass_are_spoken_of(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "KEPT_IN_MEMORY", 0)
    result = done(*DENSE)
    assert "--cache DIR keeps them in a folder" in result.stderr
    result = done(*DENSE, "--overwrite", "--cache", "cache")
    assert "--cache DIR" not in result.stderr


def test_a_size_of_nothing_is_refused(project: Path) -> None:
    result = ceag(*DENSE, "--cache", "cache", "--cache-size", "0")
    assert result.exit_code == 2
    assert "--cache-size: 0.0 must be more than 0" in result.stderr
