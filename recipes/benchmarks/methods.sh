#!/usr/bin/env bash
# Every method on three real tasks, two sparsities, three seeds; docs/benchmarks.md has the results.
#
#     bash recipes/benchmarks/methods.sh OUTPUT_FOLDER [RECIPE ...]
#
# The images are found through CEAG_DATA (a folder with cifar100/ and fairface64/). A run that was
# stopped continues where it was when the same line is given again. JOBS runs go on at a time.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
data=$(cd "${CEAG_DATA:-../shared/data}" && pwd)
mkdir -p "$1" && cd "$1"
shift

subset() {
    [ -e "$1/labels.csv" ] ||
        python "$here/subset.py" "$data/$1/labels.csv" "$1/labels.csv" "$2" "$3"
}
subset cifar100 label 100    # 100 of 500 images a class
subset fairface64 race 1/3 # 10,000 images, the races as frequent as they are

held_out() {
    [ -e "$1/unseen.csv" ] ||
        python "$here/subset.py" --held-out "$data/$1/labels.csv" "$1" "$2" "$3"
}
held_out cifar100 label 100+200 # the same 100; of a class 200 images to tune by, 300 to test on
held_out fairface64 race 1/3    # the same 10,000; 10,000 to tune by, 15,000 to test on

[ -e cifar100/long-tail.csv ] || # 4,700 images, of a class 12 to 120; of each 20 for val, 100 for test
    python "$here/subset.py" --long-tail 10 "$data/cifar100/labels.csv" cifar100/long-tail.csv label 120+20+100

for recipe in "${@:-cifar100-classes cifar100-hidden fairface-race}"; do
    for name in $recipe; do
        printf '\n%s\n\n' "$name"
        ceag sweep "$here/$name.yaml" --jobs "${JOBS:-2}"
    done
done
