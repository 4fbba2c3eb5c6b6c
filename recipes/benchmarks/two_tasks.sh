#!/usr/bin/env bash
# Naive fine-tuning and CEAG on two real tasks, three seeds each; docs/benchmarks.md has the results.
#
#     bash recipes/benchmarks/two_tasks.sh OUTPUT_FOLDER [TASK] [SEED ...]
#
# The images are found through CEAG_DATA (a folder with cifar100/ and fairface64/). A run that was
# stopped continues where it was when the same line is given again.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
data=$(cd "${CEAG_DATA:-../shared/data}" && pwd)
out=$1
tasks=${2:-cifar100 fairface}
seeds=${*:3}
mkdir -p "$out"
out=$(cd "$out" && pwd)

net="--model resnet18 --model-kwargs layers=1+1+1+1,channels=32+64+128+256,stem_type=deep,stem_width=16"
input="--img-size 32 --crop-pct 1 --hflip 0"

task() { # name, images, column of the target, groups, sparsity, eps, dual step, epochs
    local name=$1 images=$2 target=$3 groups=$4 sparsity=$5 eps=$6 dual_lr=$7 epochs=$8 seed
    local read="--groups ../../$name.csv --data-dir $images --label-column $target --groups-by $groups"
    for seed in ${seeds:-0 1 2}; do
        mkdir -p "$out/$name/$seed" && cd "$out/$name/$seed"
        # shellcheck disable=SC2086  # the options are lists of words on purpose
        {
            ceag dense $read $net $input --epochs 20 --lr 0.1 --weight-decay 5e-4 --seed "$seed" --resume
            ceag prune model.safetensors --sparsity "$sparsity" --resume
            for method in naive ceag; do
                ceag mitigate model.pruned.safetensors $read --hflip 0 --eps "$eps" --method "$method" \
                    --dual-lr "$dual_lr" --epochs "$epochs" --lr 0.05 --weight-decay 5e-4 --seed "$seed" \
                    --resume -o "$method.safetensors"
                ceag audit "$method.safetensors" --format json >"$method.json" || [ $? -eq 1 ]
            done
        }
    done
}

for name in $tasks; do
    case $name in
    cifar100)
        [ -e "$out/cifar100.csv" ] ||
            python "$here/subset.py" "$data/cifar100/labels.csv" "$out/cifar100.csv" label 100
        task cifar100 "$data/cifar100/images.zip" superclass label 0.98 0.1 0.005 15
        ;;
    fairface)
        [ -e "$out/fairface.csv" ] ||
            python "$here/subset.py" "$data/fairface64/labels.csv" "$out/fairface.csv" 'race*gender' 715
        task fairface "$data/fairface64/images.zip" gender 'race*gender' 0.99 0.02 0.007 20
        ;;
    *) echo "no task $name" >&2 && exit 2 ;;
    esac
done
python "$here/table.py" "$out"
