"""Write a groups CSV with a part of the training images and all others.

The images stay where they are: images.zip beside the new CSV is a link to the one beside the old.

    python recipes/benchmarks/subset.py LABELS.csv OUTPUT.csv COLUMN 100

takes at most 100 images of every value of the column, 1/3 in place of 100 every third.

    python recipes/benchmarks/subset.py --held-out LABELS.csv FOLDER COLUMN 100+200

writes two CSVs with these training images and more images to test on than there are test images:
FOLDER/tuning.csv, by which settings are chosen, tests on training images that are not trained on,
here the next 200 of every value (with 1/3 the second third); FOLDER/unseen.csv, for results, on
all images that are in neither, those of other splits included.

    python recipes/benchmarks/subset.py --long-tail 10 LABELS.csv OUTPUT.csv COLUMN 250+100+250

writes a CSV in which some values of the column are ten times rarer than others: of the most
frequent one 250 training images are kept, of the rarest 25, and each of those between is by the
same factor rarer than the one before. Which value is how frequent goes by a hash of its name. Of
every value the next 100 training images become split val, and 250 further ones split test, those of
the old test split first.
"""

import argparse
import csv
import hashlib
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

Row = dict[str, str]
TRAIN, TUNING, UNSEEN = range(3)


def part_of(how_many: str) -> Callable[[int], int]:
    """To which part the training image belongs that is the k-th of its value."""
    if how_many.startswith("1/"):
        every = int(how_many[2:])
        return lambda k: min(k % every, UNSEEN)
    sizes = [int(size) for size in how_many.split("+")]
    ends = [sizes[0], sum(sizes)]
    return lambda k: sum(k >= end for end in ends) if len(sizes) > 1 else (k >= sizes[0]) * UNSEEN


def parts(rows: Iterable[Row], column: str, how_many: str) -> Iterator[tuple[int | None, Row]]:
    """Each row with its part; None for one that is not of train."""
    part, seen = part_of(how_many), Counter[str]()
    for row in rows:
        if row["split"] != "train":
            yield None, row
            continue
        yield part(seen[row[column]]), row
        seen[row[column]] += 1


def long_tailed(
    rows: Iterable[Row], column: str, ratio: float, train: int, val: int, test: int
) -> Iterator[Row]:
    """Rows with their new split, in the old order; the others are left out."""
    rows = list(rows)
    values = sorted(
        {row[column] for row in rows}, key=lambda v: hashlib.sha256(v.encode()).digest()
    )
    last = max(len(values) - 1, 1)
    kept = {v: round(train * ratio ** (-rank / last)) for rank, v in enumerate(values)}
    new: dict[int, str] = {}
    seen, tested = Counter[str](), Counter[str]()
    of_train = [number for number, row in enumerate(rows) if row["split"] == "train"]
    rest = [number for number, row in enumerate(rows) if row["split"] == "test"]  # come first
    for number in of_train:
        value = rows[number][column]
        k = seen[value]
        seen[value] += 1
        if k < kept[value] + val:
            new[number] = "train" if k < kept[value] else "val"
        else:
            rest.append(number)
    for number in rest:
        value = rows[number][column]
        tested[value] += 1
        if tested[value] <= test:
            new[number] = "test"
    for number in sorted(new):
        yield rows[number] | {"split": new[number]}


def write(path: Path, rows: Iterable[Row], columns: Iterable[str]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def main(
    source: Path, target: Path, column: str, how_many: str, held_out: bool, ratio: float | None
) -> None:
    folder = target if held_out else target.parent
    folder.mkdir(parents=True, exist_ok=True)
    with source.open(newline="", encoding="utf-8") as read:
        reader = csv.DictReader(read)
        columns = reader.fieldnames or []
        rows = list(reader)
    if ratio is not None:
        write(target, long_tailed(rows, column, ratio, *map(int, how_many.split("+"))), columns)
    elif held_out:
        found = list(parts(rows, column, how_many))
        train = [row for part, row in found if part == TRAIN]
        tested = {
            "tuning": [row for part, row in found if part == TUNING],
            "unseen": [row for part, row in found if part in (UNSEEN, None)],
        }
        for name, rows in tested.items():
            write(
                folder / f"{name}.csv", [*train, *({**r, "split": "test"} for r in rows)], columns
            )
    else:
        found = list(parts(rows, column, how_many))
        write(target, [row for part, row in found if part in (TRAIN, None)], columns)
    images = folder / "images.zip"
    if not images.exists():
        images.symlink_to(source.resolve().with_name("images.zip"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--held-out", action="store_true")
    way.add_argument("--long-tail", type=float, metavar="RATIO")
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("column")
    parser.add_argument("how_many")
    given = parser.parse_args(sys.argv[1:])
    main(
        given.source,
        given.target,
        given.column,
        given.how_many,
        given.held_out,
        given.long_tail,
    )
