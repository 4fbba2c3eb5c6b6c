"""Write a groups CSV with a part of the training images and all others.

The images stay where they are: images.zip beside the new CSV is a link to the one beside the old.

    python recipes/benchmarks/subset.py LABELS.csv OUTPUT.csv COLUMN 100

takes at most 100 images of every value of the column, 1/3 in place of 100 every third.
"""

import csv
import sys
from collections import Counter
from pathlib import Path


def main(source: Path, target: Path, column: str, how_many: str) -> None:
    if how_many.startswith("1/"):
        most, every = sys.maxsize, int(how_many[2:])
    else:
        most, every = int(how_many), 1
    seen: Counter[str] = Counter()
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open(newline="", encoding="utf-8") as read:
        rows = csv.DictReader(read)
        with target.open("w", newline="", encoding="utf-8") as write:
            writer = csv.DictWriter(write, rows.fieldnames or [], lineterminator="\n")
            writer.writeheader()
            for row in rows:
                place = seen[row[column]]
                seen[row[column]] += row["split"] == "train"
                if row["split"] != "train" or (place < most and place % every == 0):
                    writer.writerow(row)
    images = target.with_name("images.zip")
    if not images.exists():
        images.symlink_to(source.resolve().with_name("images.zip"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4])
