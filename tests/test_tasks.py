"""The recipes of every task, carried out as they say, on a few images in place of a data set."""

from __future__ import annotations

import importlib.util
import pickle
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from toys import ceag, done

from ceag_cli.lineage import Lineage
from ceag_cli.recipe import dump, read_yaml
from ceag_cli.weightsfiles import read_metadata

ROOT = Path(__file__).parent.parent
RECIPES = ROOT / "recipes"
PAPER = ("cifar100", "fairface-gender", "fairface-race", "utkface-gender", "utkface-race")
TASKS = (*PAPER, "utkface-race-gender", "digits")
NAMES = ("dense", "prune", "naive", "ceag", "equalized-loss", "fairgrape", "audit")
MITIGATED = ("naive", "ceag", "equalized-loss", "fairgrape")


def lines_of(path: Path, part: str) -> list[str]:
    """The lines of a recipe's head under ``First:`` or ``Command:``, continued ones joined."""
    found: list[str] = []
    inside = False
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            break
        heading = re.match(r"# (\w+):  +(.*)", line)
        if heading:
            inside = heading[1] == part
            found += [heading[2]] if inside else []
        elif inside and line.startswith("#" + " " * 15):
            found[-1] += " " + line[1:].strip()
        elif inside:
            found.append(line[1:].strip())
    return found


def run(path: Path, part: str, *more: str) -> None:
    """Carry out what a recipe's head says, with further arguments."""
    for line in lines_of(path, part):
        for command in line.split(" && "):
            words = shlex.split(command) if command.startswith(("ceag ", "python ")) else [""]
            if words[0] == "ceag" and words[1] == "audit":
                assert ceag(*words[1:], *more).exit_code in (0, 1, 3)
            elif words[0] == "ceag":
                done(*words[1:], *more)
            elif words[:2] == ["python", "../recipes/fairface_outputs.py"]:
                script("fairface_outputs").main(Path("FILE"), words[3])


def script(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, RECIPES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(pixels).save(path, "png")


def few_faces_of_utkface() -> None:
    for i in range(40):
        gender, race = i % 2, i // 2 % 2
        picture(Path(f"../UTKFace/{i}_{gender}_{race}_201701161745251{i:02}.jpg.chip.jpg"), i)


def few_faces_of_fairface() -> None:
    for split, count in (("train", 24), ("val", 8)):
        rows = ["file,age,gender,race,service_test"]
        for i in range(1, count + 1):
            picture(Path(f"../FairFace/{split}/{i}.jpg"), i)
            race = ("White", "Latino_Hispanic")[i // 2 % 2]
            rows.append(f"{split}/{i}.jpg,20-29,{('Male', 'Female')[i % 2]},{race},True")
        table = Path(f"../FairFace/fairface_label_{split}.csv")
        table.write_text("\n".join([*rows, ""]), newline="\r\n")
    torch.manual_seed(0)
    torch.save(timm.create_model("test_resnet", num_classes=18).state_dict(), "FILE")


def few_images_of_cifar100() -> None:
    folder = Path("../cifar-100-python")
    folder.mkdir()
    names = (RECIPES / "cifar100" / "classes.txt").read_text().split()
    meta = {"fine_label_names": names, "coarse_label_names": ["thing"]}
    (folder / "meta").write_bytes(pickle.dumps(meta, 2))
    for split, count in (("train", 24), ("test", 8)):
        pixels = np.random.default_rng(count).integers(0, 256, (count, 3072), np.uint8)
        labels = {"fine_labels": [98 + i % 2 for i in range(count)], "coarse_labels": [0] * count}
        (folder / split).write_bytes(pickle.dumps(labels | {"data": pixels}, 2))
    torch.manual_seed(0)
    model = timm.create_model("cifar_resnet20b", num_classes=100)
    torch.save(model.state_dict(), "cifar100_resnet56-f2eff4c8.pt")


def few_digits() -> None:
    rows = ["path,label,split,ink"]
    for i in range(32):
        picture(Path(f"{i}.png"), i)
        rows.append(
            f"{i}.png,{i % 2},{'test' if i > 23 else 'train'},{('thin', 'bold')[i // 2 % 2]}"
        )
    Path("labels.csv").write_text("\n".join([*rows, ""]))


STAND_INS: dict[str, tuple[Callable[[], None], tuple[str, ...]]] = {
    "utkface": (few_faces_of_utkface, ("--model", "test_resnet", "--img-size", "16")),
    "fairface": (few_faces_of_fairface, ("--model", "test_resnet", "--img-size", "16")),
    "cifar100": (few_images_of_cifar100, ("--model", "cifar_resnet20b.cifar100")),
    "digits": (few_digits, ("--model", "test_resnet", "--img-size", "16")),
}
SHORT = ("--epochs", "2", "--prune-epochs", "1", "--batch-size", "8")


@pytest.mark.parametrize("task", TASKS)
def test_the_recipes_of_a_task_are_carried_out(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, model = STAND_INS[task.split("-")[0]]
    (tmp_path / "recipes").symlink_to(RECIPES)
    (tmp_path / task).mkdir()
    monkeypatch.chdir(tmp_path / task)
    write()
    recipes = {name: Path("../recipes", task, f"{name}.yaml") for name in NAMES}
    adopts = read_yaml(recipes["dense"])["epochs"] == 0
    run(recipes["dense"], "First")
    training = () if adopts else ("--epochs", "1", "--batch-size", "8")
    run(recipes["dense"], "Command", *model, *training)
    pruning = () if task == "digits" else SHORT  # there it is done at once
    run(recipes["prune"], "Command", *pruning)
    for name in MITIGATED:
        run(recipes[name], "Command", *(pruning or ("--epochs", "5")))
    run(recipes["audit"], "Command")

    written = {
        "prune": "model.pruned.safetensors",
        "ceag": "model.mitigated.safetensors",
        **{name: f"{name}.safetensors" for name in ("naive", "equalized-loss", "fairgrape")},
    }
    for name, file in written.items():
        found = Lineage.from_metadata(read_metadata(Path(file)), Path(file))
        recipe = read_yaml(recipes[name])
        assert found is not None
        assert found.sparsity is not None
        assert found.sparsity.target == recipe.get("sparsity", 0.99)
        assert found.groups is not None
        assert found.groups.groups_by == read_yaml(recipes["dense"])["groups_by"]
    assert len(list(Path().glob("*.run/audit.json"))) == 1


@pytest.mark.parametrize("task", TASKS)
def test_a_task_has_all_recipes_and_they_fit_together(task: str) -> None:
    recipes = {name: read_yaml(RECIPES / task / f"{name}.yaml") for name in NAMES}
    sweep = read_yaml(RECIPES / task / "seeds.yaml")
    commands = {name: recipe.pop("command") for name, recipe in recipes.items()}
    assert [commands[name] for name in NAMES] == ["dense", "prune", *4 * ["mitigate"], "audit"]
    assert sweep["dense"] == recipes["dense"]
    # Naive fine-tuning, CEAG and equalised loss differ in nothing but themselves.
    own = {"method", "paper", "dual_lr"}
    naive, other, third = (
        {key: value for key, value in recipes[name].items() if key not in own}
        for name in ("naive", "ceag", "equalized-loss")
    )
    assert naive == other == third
    assert sweep["mitigate"] == {key: naive[key] for key in naive if key != "sparsity"}
    assert recipes["fairgrape"]["sparsity"] == recipes["prune"]["sparsity"]
    assert recipes["prune"]["sparsity"] in sweep["sparsities"]
    assert {recipe["eps"] for name, recipe in recipes.items() if name in (*MITIGATED, "audit")} == {
        naive["eps"]
    }


def test_the_sweep_of_a_task_is_carried_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of its methods, for a short time."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    few_faces_of_utkface()
    done("groups", "--from", "utkface", "../UTKFace")
    plan = read_yaml(RECIPES / "utkface-gender" / "seeds.yaml")
    short = {"epochs": 2, "batch_size": 8}
    plan |= {"seeds": [0], "sparsities": [0.5]}
    plan["dense"] |= short | {"model": "test_resnet", "img_size": 16}
    plan["mitigate"] |= short | {"prune_epochs": 1}
    plan["methods"] = {"ceag-paper": plan["methods"]["ceag-paper"]}
    del plan["compare"]
    Path("seeds.yaml").write_text(dump(plan))
    assert "ceag-paper" in done("sweep", "seeds.yaml").stdout
    assert Path("seeds/seed-0/sparsity-0.5/ceag-paper.safetensors").is_file()
    assert Path("seeds/results.csv").read_text().count("ceag-paper") > 0


@pytest.mark.parametrize("task", [*PAPER, "utkface-race-gender"])
def test_fairgrape_has_its_published_schedule(task: str) -> None:
    recipe = read_yaml(RECIPES / task / "fairgrape.yaml")
    rounds = 1 + recipe["prune_epochs"] // recipe["epochs_between"]
    kept_each_round = 0.975 if task.startswith("utkface") else 0.9
    kept = 1 - recipe["sparsity"]
    assert kept_each_round**rounds <= kept < kept_each_round ** (rounds - 1)
    assert recipe["epochs"] - recipe["prune_epochs"] == 19


def test_outputs_of_fairface_are_taken_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    state = timm.create_model("test_resnet", num_classes=18).state_dict()
    torch.save(state, "FILE")
    for task, start, count in (("race", 0, 7), ("gender", 7, 2)):
        script("fairface_outputs").main(Path("FILE"), task)
        named = ("--class-map", f"{task}.txt", "--epochs", "0", "--model", "test_resnet")
        done("dense", "--checkpoint", f"{task}.safetensors", *named, "-o", f"{task}/")
        found = timm.create_model(f"local-dir:{tmp_path / task}", pretrained=True).state_dict()
        assert torch.equal(found["fc.weight"], state["fc.weight"][start : start + count])
        assert torch.equal(found["fc.bias"], state["fc.bias"][start : start + count])
        assert torch.equal(found["conv1.0.weight"], state["conv1.0.weight"])
    with pytest.raises(SystemExit, match="has 2 outputs, not FairFace's 18"):
        script("fairface_outputs").main(Path("gender.safetensors"), "race")
