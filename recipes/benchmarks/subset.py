"""Write a groups CSV with a part of the training images and all others.

The images stay where they are: images.zip beside the new CSV is a link to the one beside the old.

    python recipes/benchmarks/subset.py LABELS.csv OUTPUT.csv COLUMN 100

takes at most 100 images of every value of the column, 1/3 in place of 100 every third.

    python recipes/benchmarks/subset.py --held-out LABELS.csv FOLDER COLUMN 100+200

writes two CSVs with these training images and more images to test on than there are test images:
FOLDER/tuning.csv, by which settings are chosen, tests on training images that are not trained on,
here the next 200 of every value (with 1/3 the second third); FOLDER/unseen.csv, for results, on
all images that are in neither, those of other splits included.
"""

import argparse
import csv
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


def write(path: Path, rows: Iterable[Row], columns: Iterable[str]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def main(source: Path, target: Path, column: str, how_many: str, held_out: bool) -> None:
    folder = target if held_out else target.parent
    folder.mkdir(parents=True, exist_ok=True)
    with source.open(newline="", encoding="utf-8") as read:
        reader = csv.DictReader(read)
        columns = reader.fieldnames or []
        found = list(parts(reader, column, how_many))
    if held_out:
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
        write(target, [row for part, row in found if part in (TRAIN, None)], columns)
    images = folder / "images.zip"
    if not images.exists():
        images.symlink_to(source.resolve().with_name("images.zip"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--held-out", action="store_true")
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("column")
    parser.add_argument("how_many")
    given = parser.parse_args(sys.argv[1:])
    main(given.source, given.target, given.column, given.how_many, given.held_out)
