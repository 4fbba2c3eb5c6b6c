from __future__ import annotations

import copy
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from toys import ceag, done

from ceag_cli.archives import pack_file, unpack_file
from ceag_cli.errors import CheckpointError, OutputError
from ceag_cli.packing import pack, unpack
from ceag_cli.statedicts import read_state
from ceag_cli.weightsfiles import identity_of, read_metadata

DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
]


def bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(
        (a[name].dtype, a[name].shape, bits(a[name]))
        == (b[name].dtype, b[name].shape, bits(b[name]))
        for name in a
    )


def there_and_back(state: dict[str, Tensor]) -> dict[str, Tensor]:
    packed, index = pack(state)
    # As through a file: bytes, and JSON.
    stored = safetensors.torch.load(safetensors.torch.save(packed))
    return unpack(stored, json.loads(json.dumps(index)))


# The codec


def pruned(size: int, sparsity: float) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(size, generator=generator)
    return weights.masked_fill(torch.rand(size, generator=generator) < sparsity, 0.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (7,), (3, 0, 2), (4, 3, 2, 2)])
def test_every_type_and_shape_comes_back(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = torch.arange(math.prod(shape)).reshape(shape).remainder(3).to(dtype)
    assert same(there_and_back({"x": tensor}), {"x": tensor})


def test_negative_zero_nan_and_infinity_come_back_bit_for_bit() -> None:
    odd = torch.tensor([0.0, -0.0, math.nan, -math.inf, 1e-45, 0.0, 0.0, 0.0])
    odd.view(torch.int32)[2] = 0x7FC00123  # a NaN with something in it
    assert same(there_and_back({"x": odd}), {"x": odd})


def test_other_memory_layouts_come_back_as_values() -> None:
    tensor = torch.arange(24.0).reshape(1, 2, 3, 4).to(memory_format=torch.channels_last)
    assert torch.equal(there_and_back({"x": tensor})["x"], tensor)
    assert torch.equal(there_and_back({"x": tensor.mT})["x"], tensor.mT)


@settings(deadline=None, max_examples=100)
@given(
    st.sampled_from(DTYPES),
    st.lists(st.integers(0, 255), max_size=160),
    st.integers(1, 8),
)
def test_any_bytes_come_back(dtype: torch.dtype, content: list[int], zero_every: int) -> None:
    size = torch.empty(0, dtype=dtype).element_size()
    content = content[: len(content) // size * size]
    if dtype is torch.bool:
        content = [value % 2 for value in content]
    tensor = torch.tensor(content, dtype=torch.uint8).view(dtype).clone()
    tensor[::zero_every] = 0
    assert same(
        there_and_back({"a": tensor, "b": tensor.flip(0)}), {"a": tensor, "b": tensor.flip(0)}
    )


def test_sizes_are_near_the_bound() -> None:
    """A mask of random zeros cannot take less than its entropy, numbers take less than they are."""
    size, sparsity = 400_000, 0.9
    packed, index = pack({"x": pruned(size, sparsity)})
    mask, *planes = index["tensors"]["x"]["streams"]
    entropy = -0.1 * math.log2(0.1) - 0.9 * math.log2(0.9)  # 0.469 bits a weight
    assert entropy < 8 * mask / size < 1.04 * entropy
    kept = int(torch.count_nonzero(pruned(size, sparsity)))
    assert sum(planes) < 4 * kept  # exponents are alike
    assert packed["x"].numel() == mask + sum(planes)


def test_dense_tensors_have_no_mask() -> None:
    _, index = pack({"x": pruned(1000, 0.0)})
    assert index["tensors"]["x"]["streams"][0] == 0


def damaged(index: dict[str, Any], **changes: Any) -> dict[str, Any]:
    changed = copy.deepcopy(index)
    changed["tensors"]["x"] |= changes
    return changed


def test_damage_is_found() -> None:
    packed, index = pack({"x": pruned(1000, 0.9)})
    sizes = index["tensors"]["x"]["streams"]
    wrong = [
        damaged(index, shape=[992]),
        damaged(index, shape=[1001]),
        damaged(index, shape=[10**15]),
        damaged(index, shape=[-1000]),
        damaged(index, shape="many"),
        damaged(index, dtype="float64"),
        damaged(index, dtype="object"),
        damaged(index, streams=sizes[:-1]),
        damaged(index, streams=[sizes[0] - 1, sizes[1] + 1, *sizes[2:]]),
        damaged(index, streams=[-1, *sizes[1:]]),
        damaged(index, streams=[10 * size for size in sizes]),
        damaged(index, streams=None),
        index | {"version": 1},
        index | {"tensors": {}},
    ]
    for bad in wrong:
        with pytest.raises(ValueError, match=r"tensor 'x' is damaged|packed in|the index names"):
            unpack(packed, bad)
    for place in range(0, packed["x"].numel(), 97):
        flipped = packed["x"].clone()
        flipped[place] ^= 0xFF
        try:
            found = unpack({"x": flipped}, index)["x"]
        except ValueError:
            continue
        assert found.shape == (1000,)


# Files


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "m.safetensors"
    state = {"w": pruned(5000, 0.9), "steps": torch.tensor(3)}
    safetensors.torch.save_file(state, path, metadata={"format": "pt", "note": "kept"})
    return path


def test_a_file_is_packed_and_unpacked_to_the_same_tensors_and_metadata(file: Path) -> None:
    there = pack_file(file)
    assert there.output == file.with_name("m.packed.safetensors")
    assert there.bytes == there.output.stat().st_size < there.bytes_before / 3
    back = unpack_file(there.output, file.with_name("again.safetensors"))
    assert same(safetensors.torch.load_file(back.output), safetensors.torch.load_file(file))
    assert read_metadata(back.output) == {"format": "pt", "note": "kept"}
    assert back.output.read_bytes() == file.read_bytes()


def test_whoever_wrote_the_plain_file_it_comes_back_byte_for_byte(tmp_path: Path) -> None:
    """The library orders the metadata at random, others leave it out or fill the header up."""
    path = tmp_path / "m.safetensors"
    tensors = {"b": torch.arange(3), "a": pruned(100, 0.9), "c": torch.zeros(0)}
    library = [safetensors.torch.save(tensors, {str(i): "x" for i in range(9)}) for _ in range(5)]
    header = json.dumps(
        {
            "a": {"dtype": "F32", "shape": [1], "data_offsets": [1, 5]},
            "b": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
        }
    ).encode()
    odd = (len(header) + 40).to_bytes(8, "little") + header + b" " * 40 + b"\x01\0\0\0\0"
    for plain in (*library, safetensors.torch.save(tensors), odd):
        path.write_bytes(plain)
        there = pack_file(path, overwrite=True).output
        assert unpack_file(there, overwrite=True).output.read_bytes() == plain
        assert identity_of(there) == hashlib.sha256(plain).hexdigest()


@pytest.mark.parametrize("place", [0.02, 0.3, 0.5, 0.9, 0.99])
def test_flipped_bytes_are_noticed(file: Path, place: float) -> None:
    there = pack_file(file).output
    content = bytearray(there.read_bytes())
    start = int(place * len(content))
    for i in range(start, min(start + 50, len(content))):
        content[i] ^= 0x01
    there.write_bytes(content)
    result = ceag("unpack", str(there), "-o", "out.safetensors")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {there}: not a whole ")
    assert result.stderr.endswith("; restore it from a copy, or write it anew\n")
    assert not Path("out.safetensors").exists()


def test_a_single_flipped_bit_of_a_number_is_noticed(file: Path) -> None:
    """Whichever it is: many of them would decompress to other numbers of the same count."""
    there = pack_file(file).output
    content = there.read_bytes()
    length = 8 + int.from_bytes(content[:8], "little")
    for i in range(length, len(content), 61):
        there.write_bytes(content[:i] + bytes([content[i] ^ 0x10]) + content[i + 1 :])
        with pytest.raises(CheckpointError, match="not a whole packed file"):
            read_state(there)
    there.write_bytes(content)
    read_state(there)


@pytest.mark.parametrize("kept", [7, 300, -1])
def test_a_packed_file_that_is_cut_short_is_named(file: Path, kept: int) -> None:
    there = pack_file(file).output
    there.write_bytes(there.read_bytes()[:kept])
    (message,) = ceag("unpack", str(there)).stderr.splitlines()
    assert message.startswith(f"error: {there}: not a whole .safetensors file: ")
    assert message.endswith("; restore it from a copy, or write it anew")


def test_changed_metadata_of_a_packed_file_are_noticed(file: Path) -> None:
    there = pack_file(file).output
    tensors, metadata = safetensors.torch.load_file(there), read_metadata(there)
    safetensors.torch.save_file(tensors, there, metadata=metadata | {"note": "another"})
    (message,) = ceag("unpack", str(there), "-o", "out.safetensors").stderr.splitlines()
    assert message == (
        f"error: {there}: not a whole packed file: its content does not have the checksum that it "
        "was written with; restore it from a copy, or write it anew"
    )


def test_a_file_of_the_first_format_is_refused(file: Path) -> None:
    there = pack_file(file).output
    tensors, metadata = safetensors.torch.load_file(there), read_metadata(there)
    index = json.dumps(json.loads(metadata["ceag.packed"]) | {"version": 1})
    safetensors.torch.save_file(tensors, there, metadata=metadata | {"ceag.packed": index})
    with pytest.raises(CheckpointError) as caught:
        read_state(there)
    assert caught.value.problems == [
        f"{there}: packed in format 1, this version of ceag reads format 2; write it anew with "
        "this version"
    ]


def test_nothing_is_replaced_or_packed_twice(file: Path) -> None:
    there = pack_file(file).output
    with pytest.raises(OutputError, match="exists already"):
        pack_file(file)
    with pytest.raises(OutputError, match="exists already"):
        unpack_file(there)
    with pytest.raises(CheckpointError, match="is packed already"):
        pack_file(there)
    with pytest.raises(CheckpointError, match="is not packed"):
        unpack_file(file)
    with pytest.raises(OutputError, match="is the input"):
        pack_file(file, file)
    with pytest.raises(OutputError, match=r"must end in \.safetensors"):
        pack_file(file, Path("m.zip"))
    assert unpack_file(there, overwrite=True).output == file


def test_a_packed_file_of_another_name_needs_an_output(file: Path) -> None:
    there = pack_file(file, Path("small.safetensors")).output
    with pytest.raises(OutputError, match=r"does not end in \.packed\.safetensors"):
        unpack_file(there)


def test_a_damaged_packed_file_is_named(file: Path) -> None:
    there = pack_file(file).output
    tensors, metadata = safetensors.torch.load_file(there), read_metadata(there)
    for index in (
        "{}",
        "null",
        "[1]",
        "not JSON",
        '{"version": 2, "tensors": {"w": 1, "steps": 2}}',
        json.dumps(json.loads(metadata["ceag.packed"]) | {"header": "eJ"}),
        json.dumps(json.loads(metadata["ceag.packed"]) | {"header": None}),
        json.dumps(json.loads(metadata["ceag.packed"]) | {"sha256": "0"}),
    ):
        safetensors.torch.save_file(tensors, there, metadata=metadata | {"ceag.packed": index})
        result = ceag("unpack", str(there), "-o", "out.safetensors")
        assert result.exit_code == 2
        assert f"error: {there}: not a whole packed file: " in result.stderr
        assert not Path("out.safetensors").exists()


def test_the_commands_say_what_they_wrote(file: Path) -> None:
    result = done("pack", "m.safetensors")
    assert result.stdout.startswith("wrote m.packed.safetensors: ")
    assert result.stdout.endswith(" (m.safetensors: 20.2 kB)\n")
    result = done("unpack", "m.packed.safetensors", "--overwrite")
    assert result.stdout.startswith("wrote m.safetensors: 20.2 kB (m.packed.safetensors: ")
