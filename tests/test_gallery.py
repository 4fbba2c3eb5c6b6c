from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from ceag_cli.answers import pairs_of
from ceag_cli.audit import audit
from ceag_cli.findings import AuditResult
from ceag_cli.gallery import PER_GROUP, SIZE, data_uri, gallery
from ceag_cli.groups import Grouping
from ceag_cli.policy import Policy
from ceag_cli.predictions import AnswerTable
from ceag_cli.results import Flip


def table(lost: Sequence[int], n: int = 20, split: int = 2) -> AnswerTable:
    """Groups of ``n`` cats, which the sparse model takes for owls on the first few of each."""
    count = len(lost) * n
    groups = np.repeat(np.arange(len(lost)), n)
    sparse = np.where(np.arange(count) % n < np.array(lost)[groups], 1, 0)
    return AnswerTable(
        ids=tuple(f"images/{i:03}.png" for i in range(count)),
        split=np.full(count, split),
        classes=("cat", "owl"),
        label=np.zeros(count, np.int64),
        dense=np.zeros(count, np.int64),
        sparse=sparse,
        grouping=Grouping(("letter",), (tuple("abcdefgh"[: len(lost)]),)),
        groups=groups[:, None],
    )


def result_of(answers: AnswerTable) -> AuditResult:
    return audit(pairs_of(answers), answers.grouping, Policy(eps=0.02))


def image(size: tuple[int, int] = (200, 100), mode: str = "RGB", **more: bytes) -> bytes:
    file = io.BytesIO()
    kind = "png" if mode in ("RGBA", "P", "I;16") else "jpeg"
    Image.new(mode, size).save(file, kind, **more)
    return file.getvalue()


def shown(answers: AnswerTable, most: int = 24) -> list[Flip]:
    return list(gallery(result_of(answers), answers, lambda path: image(), most))


def opened(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1])))


def test_lost_images_of_the_worst_groups_come_first() -> None:
    flips = shown(table([2, 10, 0, 1]))
    assert [flip.group for flip in flips] == ["letter=b"] * PER_GROUP + ["letter=a"] * 2 + [
        "letter=d"
    ]
    assert [flip.path for flip in flips[:2]] == ["images/020.png", "images/021.png"]
    assert {(flip.split, flip.label, flip.dense, flip.sparse) for flip in flips} == {
        ("test", "cat", "cat", "owl")
    }


def test_no_more_than_asked_for() -> None:
    assert len(shown(table([10, 10, 10]), 8)) == 8
    assert shown(table([10, 10, 10]), 0) == []


def test_a_split_that_is_described_gives_none() -> None:
    assert shown(table([10, 0], split=0)) == []


def test_an_image_in_two_groups_is_shown_once() -> None:
    answers = table([4, 0])
    both = AnswerTable(
        **{
            **vars(answers),
            "grouping": Grouping(("letter", "age"), (("a", "b"), ("old", "young"))),
            "groups": np.column_stack([answers.groups[:, 0], answers.groups[:, 0] + 2]),
        }
    )
    flips = shown(both)
    assert len(flips) == len({flip.path for flip in flips}) == 4


def test_an_image_that_is_gone_is_left_out() -> None:
    answers = table([3, 0])

    def read(path: str) -> bytes:
        if path == "images/001.png":
            raise FileNotFoundError(path)
        return b"no image" if path == "images/002.png" else image()

    flips = gallery(result_of(answers), answers, read, 24)
    assert [flip.path for flip in flips] == ["images/000.png"]


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "RGBA", "P", "I;16"])
def test_thumbnails_are_small_whatever_the_image_is(mode: str) -> None:
    uri = data_uri(image(mode=mode))
    assert uri.startswith("data:image/jpeg;base64,")
    assert opened(uri).size == (SIZE, SIZE // 2)
    assert opened(uri).mode == "RGB"


def test_a_tiny_image_is_not_blurred() -> None:
    uri = data_uri(image((8, 8), "RGBA"))
    assert uri.startswith("data:image/png;base64,")
    assert opened(uri).size == (8, 8)


def test_no_metadata_of_the_image_is_in_the_page() -> None:
    exif = Image.Exif()
    exif[0x010E] = "somebody's name"
    uri = data_uri(image(exif=exif.tobytes()))
    assert b"somebody" not in base64.b64decode(uri.split(",", 1)[1])
    assert not opened(uri).getexif()
