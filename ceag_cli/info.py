"""What a weights file says about itself, without building the model."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from ceag_cli.lineage import Lineage
from ceag_cli.timmconfigs import checked_config
from ceag_cli.weightsfiles import PACKED, identity_of, read_metadata, sha256_of, weights_in


def describe_file(path: Path) -> dict[str, Any]:
    """Everything that the metadata of a .safetensors file, or of a folder's, holds.

    Raises:
        CheckpointError: The file is missing, damaged, or of another format.
    """
    path = weights_in(path)
    metadata = read_metadata(path)
    lineage = Lineage.from_metadata(metadata, path)
    config = checked_config(metadata.get("ceag.timm", "{}"), f"{path}, metadata")
    preprocessing = config["pretrained_cfg"]
    return {
        "schema_version": 1,
        "file": str(path),
        "sha256": sha256_of(path),
        "bytes": path.stat().st_size,
        "sha256_unpacked": identity_of(path) if PACKED in metadata else None,
        "written_by": f"ceag {lineage.version}" if lineage else None,
        "versions": dict(lineage.versions) if lineage else {},
        "stage": lineage.stage if lineage else None,
        "architecture": config.get("architecture"),
        "num_classes": config.get("num_classes"),
        "label_names": config.get("label_names"),
        "preprocessing": {
            name: preprocessing.get(name)
            for name in ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")
        },
        "sparsity": lineage.sparsity.to_json() if lineage and lineage.sparsity else None,
        "recalibrated": lineage.recalibrated if lineage else None,
        "eps": lineage.eps if lineage else None,
        "seed": lineage.seed if lineage else None,
        "groups": _groups(lineage),
        "parents": {
            role: asdict(parent) for role, parent in (lineage.parents.items() if lineage else ())
        },
        "recipe": dict(lineage.recipe) if lineage else None,
    }


def _groups(lineage: Lineage | None) -> dict[str, Any] | None:
    if lineage is None or lineage.groups is None:
        return None
    groups = lineage.groups
    return {
        "path": groups.csv.path,
        "sha256": groups.csv.sha256,
        "data_dir": groups.data_dir,
        "label_column": groups.label_column,
        "groups_by": groups.groups_by,
        "dataset": groups.dataset and asdict(groups.dataset),
    }


def lines(found: dict[str, Any]) -> list[str]:
    """The description as text, one fact a line."""
    if found["stage"] is None:
        return [f"{found['file']}: not written by ceag ({found['bytes']} bytes)"]
    size = found["preprocessing"]
    shown = [
        ("file", found["file"]),
        ("sha256", found["sha256"]),
        ("stage", f"{found['stage']}, written by {found['written_by']}"),
        ("architecture", f"{found['architecture']}, {found['num_classes']} classes"),
        (
            "preprocessing",
            f"{'x'.join(map(str, size['input_size'] or []))}, {size['interpolation']}, "
            f"crop {size['crop_pct']}, mean {size['mean']}, std {size['std']}",
        ),
    ]
    if found["sha256_unpacked"]:
        shown.insert(2, ("unpacked", f"sha256 {found['sha256_unpacked']}"))
    if found["sparsity"]:
        record = found["sparsity"]
        shown.append(
            (
                "sparsity",
                f"{record['achieved']:.4%} of {len(record['tensors'])} tensors "
                f"(target {record['target']:g}, {record['criterion']}, scope {record['scope']}, "
                f"{record['pattern']})",
            )
        )
    if found["recalibrated"]:
        shown.append(("BatchNorm", f"measured anew on {found['recalibrated']} train images"))
    if found["eps"] is not None:
        shown.append(("eps", f"{found['eps']:g}"))
    shown.append(("seed", str(found["seed"])))
    if found["groups"]:
        groups = found["groups"]
        shown.append(
            ("groups", f"{groups['path']} by {groups['groups_by']}, label {groups['label_column']}")
        )
        if groups["dataset"]:
            dataset = groups["dataset"]
            splits = "".join(f", {name} {split}" for name, split in dataset["splits"].items())
            where = f" in {groups['data_dir']}" if groups["data_dir"] else ""
            shown.append(("data set", f"{dataset['name']}{where}{splits}"))
    if found["versions"]:
        made_with = ", ".join(f"{name} {of}" for name, of in found["versions"].items())
        shown.append(("made with", made_with))
    shown += [
        (f"{role} parent", f"{parent['path']} ({parent['sha256'][:12]}…)")
        for role, parent in found["parents"].items()
    ]
    recipe = {k: v for k, v in (found["recipe"] or {}).items() if k not in ("command", "seed")}
    shown.append(("recipe", ", ".join(f"{name} {value}" for name, value in recipe.items())))
    return [f"{name:<14} {text}" for name, text in shown]
