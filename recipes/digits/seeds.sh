#!/usr/bin/env bash
# The demo's comparison over several seeds; docs/benchmarks.md has the results. Run by
# `make demo-seeds`, after `make demo` has written the images.
#
#     bash recipes/digits/seeds.sh OUTPUT_FOLDER [SEED ...]
set -euo pipefail
recipes=$(cd "$(dirname "$0")" && pwd)
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
out=$1
seeds=${*:2}

[ -e demo/labels.csv ] || python "$recipes/write_digits.py" demo
labels=$PWD/demo/labels.csv
for seed in ${seeds:-0 1 2 3 4}; do
    mkdir -p "$out/digits/$seed"
    (
        cd "$out/digits/$seed"
        ceag dense --config "$recipes/dense.yaml" --groups "$labels" --seed "$seed" --resume
        ceag prune model.safetensors --config "$recipes/prune.yaml" --resume
        for method in naive ceag; do
            ceag mitigate model.pruned.safetensors --config "$recipes/$method.yaml" \
                --groups "$labels" --seed "$seed" --resume -o "$method.safetensors"
            ceag audit "$method.safetensors" --config "$recipes/audit.yaml" --format json \
                >"$method.json" || [ $? -eq 1 ]
        done
    )
done
python "$recipes/../benchmarks/table.py" "$out"
