"""Take the outputs of one task from the weights that FairFace's authors publish.

Their ResNet-34 (res34_fair_align_multi_7_20190809.pt) has 18 outputs: 7 races, 2 genders, 9 ages.
This writes race.safetensors with those of the race alone (or gender.safetensors), for timm's
resnet34, and race.txt with its classes in the order of the outputs, for --class-map.

    python recipes/fairface_outputs.py res34_fair_align_multi_7_20190809.pt race
"""

import sys
from pathlib import Path

import safetensors.torch

from ceag_cli.statedicts import read_state

RACES = (
    *("White", "Black", "Latino_Hispanic", "East Asian", "Southeast Asian", "Indian"),
    "Middle Eastern",
)
TASKS = {"race": (slice(0, 7), RACES), "gender": (slice(7, 9), ("Male", "Female"))}


def main(file: Path, task: str) -> None:
    rows, classes = TASKS[task]
    state, _, _ = read_state(file)
    if len(state["fc.weight"]) != 18:
        sys.exit(f"{file}: has {len(state['fc.weight'])} outputs, not FairFace's 18")
    for name in ("fc.weight", "fc.bias"):
        state[name] = state[name][rows].clone()
    safetensors.torch.save_file(state, f"{task}.safetensors", metadata={"format": "pt"})
    Path(f"{task}.txt").write_text("".join(f"{name}\n" for name in classes))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
