"""Write the handwritten digits of scikit-learn as an image folder and a groups CSV.

1,797 grey images of 8x8 pixels (Alpaydin and Kaynak 1998, the test part of the optical recognition
set). Columns: path, label (the digit), split, and ink: the tercile of the image's mean darkness
(thin, medium, bold; cuts taken on train), which is not the target.

Half of each digit's images are in train, but of the digit 8 only one in twelve: a group that is
rare in training, as minorities are in real data, and well represented in test, so that an audit
can see what happens to it.

    python recipes/digits/write_digits.py FOLDER
"""

import csv
import sys
from pathlib import Path

import numpy
from PIL import Image
from sklearn.datasets import load_digits

TRAIN_SHARE = 0.5
RARE_DIGIT, RARE_TRAIN_SHARE = 8, 1 / 12
SEED = 0


def main(folder: Path) -> None:
    digits = load_digits()
    random = numpy.random.default_rng(SEED)
    is_test = numpy.ones(len(digits.target), dtype=bool)
    for digit in range(10):
        rows = random.permutation(numpy.flatnonzero(digits.target == digit))
        share = RARE_TRAIN_SHARE if digit == RARE_DIGIT else TRAIN_SHARE
        is_test[rows[: round(share * len(rows))]] = False
    darkness = digits.images.mean(axis=(1, 2))
    cuts = numpy.quantile(darkness[~is_test], [1 / 3, 2 / 3])
    ink = numpy.array(["thin", "medium", "bold"])[numpy.digitize(darkness, cuts)]

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["path", "label", "split", "ink"])
        for row, (pixels, digit) in enumerate(zip(digits.images, digits.target, strict=True)):
            split = "test" if is_test[row] else "train"
            path = Path("images", split, str(digit), f"{row:04}.png")
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((pixels * 255 / 16).round().astype("uint8")).save(folder / path)
            writer.writerow([path.as_posix(), digit, split, ink[row]])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
