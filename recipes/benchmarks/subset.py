"""Write a groups CSV with at most N training images of every value of a column, and all others.

The images stay where they are: the paths do not change, so name them with --data-dir.

    python recipes/benchmarks/subset.py LABELS.csv OUTPUT.csv COLUMN[*COLUMN] N
"""

import csv
import sys
from collections import Counter
from pathlib import Path


def main(source: Path, target: Path, columns: list[str], most: int) -> None:
    seen: Counter[tuple[str, ...]] = Counter()
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open(newline="", encoding="utf-8") as read:
        rows = csv.DictReader(read)
        with target.open("w", newline="", encoding="utf-8") as write:
            writer = csv.DictWriter(write, rows.fieldnames or [], lineterminator="\n")
            writer.writeheader()
            for row in rows:
                group = tuple(row[column] for column in columns)
                seen[group] += row["split"] == "train"
                if row["split"] != "train" or seen[group] <= most:
                    writer.writerow(row)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3].split("*"), int(sys.argv[4]))
