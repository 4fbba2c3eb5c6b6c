"""``ceag explain`` from files to files, and its numbers beside what the models themselves say."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from test_formats import wrong
from torch import Tensor, nn
from toys import COLOURS, TINY, ceag, done, folder_with, tiny_model, write_csv
from typer.testing import Result

from ceag_cli import atomic, reportfiles
from ceag_cli.checkpoints import load
from ceag_cli.decoding import decode
from ceag_cli.errors import CeagError, CheckpointError, OutputError
from ceag_cli.explaining import _check_alike, _local, drawn, explain
from ceag_cli.explanations import (
    Explained,
    Explanation,
    GroupExplanation,
    explanation_document,
    explanation_from,
    features_of,
    kept_explanation,
)
from ceag_cli.options import ExplainOptions
from ceag_cli.schemas import schema
from ceag_cli.sharedoptions import ArchitectureOptions
from ceag_cli.weightsfiles import read_metadata

BY_LABEL = ("--groups", "labels.csv", "--groups-by", "label,group")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dense model with BatchNorm and a pruned one whose statistics were measured anew."""
    folder = folder_with(
        tmp_path_factory,
        ("dense", *BY_LABEL, *TINY, "--epochs", "2"),
        ("prune", "--sparsity", "0.6", *BY_LABEL, "--recalibrate", "24"),
    )
    for run in folder.glob("*.run"):
        shutil.rmtree(run)
    return folder


FAST = ("--workers", "0", "--max-iterations", "2")
"""For what has nothing to do with eigenvalues."""


def explained(**options: Any) -> Explanation:
    return explain(ExplainOptions(**{"workers": 0, "max_iterations": 2} | options)).explanation


def audited() -> Result:
    """An audit of so few images that it may end with any verdict."""
    result = ceag("audit", "model.pruned.safetensors", "--workers", "0")
    assert result.exit_code in (0, 1, 3), result.output
    return result


def by_name(found: Explanation) -> dict[str, GroupExplanation]:
    return {group.name: group for group in found.groups}


def changed(change: Callable[[dict[str, Tensor]], None], output: str = "moved.safetensors") -> str:
    """The dense model with other tensors."""
    state = safetensors.torch.load_file("model.safetensors")
    change(state)
    safetensors.torch.save_file(state, output, read_metadata(Path("model.safetensors")))
    return output


NUMBERS = (
    *("loss_dense", "loss_sparse", "loss_change", "change_by_weights", "change_by_buffers"),
    *("gradient_norm", "bound_gradient", "first_order", "second_order"),
    *("margin_dense", "margin_sparse", "closeness_dense", "closeness_sparse", "excess_gap"),
)


def close(one: Explanation, other: Explanation) -> None:
    for name, group in by_name(one).items():
        for field in NUMBERS:
            expected = getattr(by_name(other)[name], field)
            assert getattr(group, field) == pytest.approx(expected, rel=2e-3, abs=2e-5), field
        assert group.converged
        # Lanczos' method stops by a tolerance.
        expected = by_name(other)[name].largest_eigenvalue
        assert group.largest_eigenvalue == pytest.approx(expected, rel=0.02)


# What is measured


def test_losses_and_psi_are_those_of_the_audit(here: Path) -> None:
    audited()
    said = json.loads(Path("model.pruned.run/audit.json").read_text())
    found = explained()
    assert found.split == "test"
    assert found.n == 12
    more = next(item for item in said["more"] if item["split"] == "test")
    for group in more["groups"]:
        own = by_name(found)[f"{group['feature']}={group['value']}"]
        assert own.n == own.used == group["n"]
        assert own.loss_dense == pytest.approx(group["loss"]["dense"], rel=1e-5)
        assert own.loss_sparse == pytest.approx(group["loss"]["sparse"], rel=1e-5)
        assert own.loss_change == pytest.approx(group["loss"]["shift"]["value"], rel=1e-4)
    psi = {f"{g['feature']}={g['value']}": g for g in said["groups"] if g["split"] == "test"}
    for name, own in by_name(found).items():
        assert own.excess_gap == pytest.approx(psi[name]["excess_gap"], abs=1e-12)


def test_a_small_step_is_predicted(here: Path) -> None:
    def nudge(state: dict[str, Tensor]) -> None:
        generator = torch.Generator().manual_seed(1)
        for name, tensor in state.items():
            if name.endswith("weight"):
                noise = torch.randn(tensor.shape, generator=generator)
                tensor += 1e-3 * tensor.std() * noise if tensor.numel() > 1 else 0

    found = explained(checkpoint=changed(nudge), dense="model.safetensors", groups="labels.csv")
    assert not found.buffers_differ
    assert 0 < found.distance < 0.01 * found.norm_dense
    for group in found.groups:
        assert group.change_by_weights == group.loss_change
        assert group.change_by_buffers == 0.0
        assert group.loss_change is not None
        assert group.second_order == pytest.approx(group.loss_change, rel=0.02, abs=2e-6)
        assert group.bound is not None
        assert group.loss_change <= group.bound
    for feature in found.features:
        assert feature.error_second_order is not None
        assert feature.error_first_order is not None
        assert feature.error_second_order < 0.02
        assert {c.target for c in feature.correlations} == {"loss_change", "excess_gap"}
    (labels,) = [feature for feature in found.features if feature.feature == "label"]
    (ordered,) = [
        c for c in labels.correlations if (c.quantity, c.target) == ("second_order", "loss_change")
    ]
    assert ordered.n == 3
    assert ordered.rho == pytest.approx(1.0)


def test_a_model_and_itself_differ_in_nothing(here: Path) -> None:
    found = explained(
        checkpoint="model.safetensors", dense="model.safetensors", groups="labels.csv"
    )
    assert found.distance == 0.0
    for group in found.groups:
        assert group.loss_change == group.first_order == group.second_order == group.bound == 0.0
        assert group.gradient_norm is not None
        assert group.gradient_norm > 0
    for feature in found.features:
        assert feature.loss_gap == 0.0
        assert feature.error_first_order is None
        assert all(c.rho is None for c in feature.correlations)


def test_buffers_have_their_own_part(here: Path) -> None:
    def statistics(state: dict[str, Tensor]) -> None:
        for name, tensor in state.items():
            if name.endswith("running_var"):
                tensor *= 1.5

    only_buffers = explained(
        checkpoint=changed(statistics), dense="model.safetensors", groups="labels.csv"
    )
    assert only_buffers.buffers_differ
    assert only_buffers.distance == 0.0
    for group in only_buffers.groups:
        assert group.change_by_weights == 0.0
        assert group.change_by_buffers == group.loss_change != 0.0
        assert group.second_order == 0.0

    def count(state: dict[str, Tensor]) -> None:
        for name in state:
            if name.endswith("num_batches_tracked"):
                state[name] += 7

    counted = explained(
        checkpoint=changed(count, "counted.safetensors"),
        dense="model.safetensors",
        groups="labels.csv",
    )
    assert not counted.buffers_differ  # batches seen in training change no answer


def test_gradients_and_products_are_those_of_the_dense_model(here: Path) -> None:
    found = explained(max_iterations=100)
    dense, sparse = tiny_model(), tiny_model()
    dense.load_state_dict(safetensors.torch.load_file("model.safetensors"))
    sparse.load_state_dict(safetensors.torch.load_file("model.pruned.safetensors"))
    inputs, targets = _test_pixels()
    rows = targets == 1  # label=green
    weights = list(dense.parameters())
    loss = nn.functional.cross_entropy(dense(inputs[rows]), targets[rows])
    slopes = torch.autograd.grad(loss, weights, create_graph=True)
    step = [b.detach() - a.detach() for a, b in zip(weights, sparse.parameters(), strict=True)]
    first = torch.stack([(g * d).sum() for g, d in zip(slopes, step, strict=True)]).sum()
    second = torch.autograd.grad(first, weights)
    curved = sum(float((h * d).sum()) for h, d in zip(second, step, strict=True))
    group = by_name(found)["label=green"]
    norm = math.sqrt(sum(float(g.detach().square().sum()) for g in slopes))
    assert group.loss_dense == pytest.approx(float(loss.detach()), rel=1e-4)
    assert group.gradient_norm == pytest.approx(norm, rel=1e-4)
    assert group.first_order == pytest.approx(float(first.detach()), rel=1e-3)
    assert group.second_order == pytest.approx(float(first.detach()) + curved / 2, rel=1e-3)
    distance = math.sqrt(sum(float(d.square().sum()) for d in step))
    assert found.distance == pytest.approx(distance, rel=1e-6)
    assert group.bound_gradient == pytest.approx(norm * distance, rel=1e-4)
    assert group.largest_eigenvalue is not None
    assert group.bound_curvature == pytest.approx(group.largest_eigenvalue * distance**2 / 2)
    # What the curvature says along the way is at most what it says in its worst direction.
    assert curved <= group.largest_eigenvalue * distance**2 * 1.01


def _test_pixels() -> tuple[Tensor, Tensor]:
    """The test images as the model sees them: 16 pixels wide, crop 0.95."""
    preprocessing = load(Path("model.safetensors"), ArchitectureOptions()).preprocessing
    transform = preprocessing.transform()
    pictures = [
        transform(decode(Path(f"images/{i}.png").read_bytes(), 3)).float() / 255
        for i in range(24, 36)
    ]
    mean, std = (
        torch.tensor(values)[:, None, None] for values in (preprocessing.mean, preprocessing.std)
    )
    inputs: Tensor = (torch.stack(pictures) - mean) / std
    return inputs, torch.arange(24, 36) % 3


def test_a_quadratic_loss_is_predicted_exactly_to_second_order() -> None:
    """J = b.x + x'Ax/2: g = b + A theta, H = A, and the expansion has no third term."""
    generator = torch.Generator().manual_seed(2)
    a = torch.randn(9, 9, generator=generator, dtype=torch.float64)
    a = a + a.T
    b, theta, step = torch.unbind(torch.randn(3, 9, generator=generator, dtype=torch.float64))

    class Quadratic:
        size = 9
        weights = (theta,)

        def value(self, x: Tensor) -> float:
            return float(b @ x + x @ a @ x / 2)

        def gradient(self) -> Tensor:
            return b + torch.mv(a, theta)

        def product(self, vector: Tensor) -> Tensor:
            return torch.mv(a, vector)

    loss = Quadratic()
    found = _local(loss, step, ExplainOptions(tol=1e-8))  # type: ignore[arg-type]
    change = loss.value(theta + step) - loss.value(theta)
    assert found["second_order"] == pytest.approx(change, rel=1e-12)
    assert found["first_order"] == pytest.approx(float(loss.gradient() @ step), rel=1e-12)
    top = float(torch.linalg.eigvalsh(a)[-1])
    assert found["largest_eigenvalue"] == pytest.approx(top, rel=1e-7)
    assert found["bound"] >= change


# Which images


def test_neither_batch_size_nor_order_of_images_matters(here: Path) -> None:
    whole = explained(max_iterations=100)
    close(explained(batch_size=5, output="other", max_iterations=100), whole)
    header, *lines = Path("labels.csv").read_text().splitlines()
    Path("turned.csv").write_text("\n".join([header, *reversed(lines)]) + "\n")
    turned = explained(
        groups="turned.csv", groups_by="label,group", output="turned", max_iterations=100
    )
    close(turned, whole)


def test_a_cap_draws_by_the_seed_and_is_said(here: Path) -> None:
    capped = ("--max-images-per-group", "2", *FAST)
    said = done("explain", *capped).stdout
    assert "at most 2 images a group, drawn by seed 42" in said
    one = json.loads(Path("model.pruned.run/explanation.json").read_text())["explanation"]
    assert {group["used"] for group in one["groups"]} == {2}
    assert {group["n"] for group in one["groups"]} == {4, 6}
    done("explain", *capped)
    same = json.loads(Path("model.pruned.run/explanation.json").read_text())["explanation"]
    assert same == one
    done("explain", *capped, "--seed", "1")
    other = json.loads(Path("model.pruned.run/explanation.json").read_text())["explanation"]
    assert [g["loss_dense"] for g in other["groups"]] != [g["loss_dense"] for g in one["groups"]]
    assert [g["excess_gap"] for g in other["groups"]] == [g["excess_gap"] for g in one["groups"]]
    assert "drawn by seed" not in done("explain", *FAST).stdout


def test_drawing_takes_every_group_by_itself() -> None:
    groups = torch.tensor([[0, 3], [0, 4], [1, 3], [1, 4], [0, 3], [0, 4]])
    found = drawn(groups, 6, 2, seed=0)
    assert [len(rows) for rows in found] == [2, 2, 0, 2, 2, 0]
    for group, rows in enumerate(found):
        assert bool((groups[rows] == group).any(dim=1).all())
        assert rows.tolist() == sorted(set(rows.tolist()))
    everything = drawn(groups, 6, 0, seed=0)
    assert everything[0].tolist() == [0, 1, 4, 5]
    assert everything[3].tolist() == [0, 2, 4]


def test_a_group_of_one_image_and_one_of_none(here: Path) -> None:
    rows = []
    for i in range(36):
        split = "train" if i < 24 else "test"
        lone = "one" if i in (3, 30) else "nowhere" if i == 5 else "all"
        rows.append((f"images/{i}.png", list(COLOURS)[i % 3], split, lone))
    write_csv(Path("few.csv"), rows)
    found = explained(groups="few.csv", groups_by="group", max_iterations=100)
    groups = by_name(found)
    assert groups["group=nowhere"] == GroupExplanation("group", "nowhere", 0, 0)
    one = groups["group=one"]
    assert (one.n, one.used) == (1, 1)
    assert one.gradient_norm is not None
    assert one.converged
    assert found.features[0].groups == 2
    assert all(c.rho is None for c in found.features[0].correlations)
    said = done("explain", "--groups", "few.csv", "--groups-by", "group").stdout
    assert "no rank correlation: it takes 3 groups" in said
    row = next(line for line in said.splitlines() if line.startswith("group=nowhere"))
    assert row.split()[1:] == ["0"] + ["–"] * (len(row.split()) - 2)


# Models


def test_attention_and_no_batchnorm(here: Path) -> None:
    arguments = ("--model", "test_vit", "--img-size", "32", "--batch-size", "8", "--workers", "0")
    done("dense", *BY_LABEL, *arguments, "--epochs", "1", "-o", "vit.safetensors")
    done("prune", "vit.safetensors", "--sparsity", "0.3", "-o", "vit.pruned.safetensors")
    found = explained(checkpoint="vit.pruned.safetensors", max_iterations=4, tol=1e-9)
    assert not found.buffers_differ
    for group in found.groups:
        assert group.iterations == 4
        assert not group.converged
        assert group.change_by_weights == group.loss_change
        assert group.largest_eigenvalue is not None
    said = done(
        *("explain", "vit.pruned.safetensors", "--max-iterations", "4", "--tol", "1e-9"),
        *("--workers", "0"),
    ).stdout
    assert "*: not within the tolerance 1e-09 after 4 Hessian-vector products (5 groups)" in said
    assert "by buffers" not in said


def test_nan_is_an_error(here: Path) -> None:
    def spoil(state: dict[str, Tensor]) -> None:
        for tensor in state.values():
            if tensor.is_floating_point():
                tensor.fill_(math.nan)

    result = ceag(
        *("explain", changed(spoil), "--dense", "model.safetensors", "--groups", "labels.csv"),
        *("--workers", "0"),
    )
    assert result.exit_code == 2
    assert "sparse on test: NaN or infinite outputs for 12 of 12 images" in result.stderr


def test_a_mixture_without_finite_loss_is_left_out(here: Path) -> None:
    def extreme(state: dict[str, Tensor]) -> None:
        """Weights and statistics that fit each other, and nothing else."""
        for name in state:
            if name.endswith("running_var"):
                state[name] *= 1e20
                stem = name.removesuffix("running_var")
                state[stem + "running_mean"] *= 1e10
                before = stem.replace("bn", "conv") + "weight"
                if before in state:
                    state[before] *= 1e10

    path = changed(extreme)
    result = done(
        *("explain", path, "--dense", "model.safetensors", "--groups", "labels.csv"),
        *(*FAST, "--format", "json"),
    )
    document = json.loads(result.stdout, parse_constant=pytest.fail)  # no NaN, no infinity
    for group in document["explanation"]["groups"]:
        assert group["change_by_weights"] is None
        assert group["loss_change"] is not None
        assert group["second_order"] is not None
    for feature in document["explanation"]["features"]:
        assert feature["error_second_order"] is None


def test_models_of_other_tensors_are_refused(here: Path) -> None:
    arguments = ("--model", "test_convnext", "--img-size", "32", "--workers", "0")
    done("dense", *BY_LABEL, *arguments, "--epochs", "1", "-o", "other.safetensors")
    with pytest.raises(CeagError):
        explained(checkpoint="model.pruned.safetensors", dense="other.safetensors")


def test_a_missing_tensor_is_named(here: Path) -> None:
    one = SimpleNamespace(path="dense.safetensors", model=nn.Linear(2, 3))
    other = SimpleNamespace(path="sparse.safetensors", model=nn.Linear(2, 3, bias=False))
    with pytest.raises(CheckpointError, match=r"sparse.safetensors: tensor 'bias' is not as in"):
        _check_alike(one, other)  # type: ignore[arg-type]


# What is printed and written


def test_nothing_need_be_named(here: Path) -> None:
    result = done("explain", *FAST)
    assert "took model.pruned.safetensors, the newest pruned model in this folder" in result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].startswith("test: 12 images. From the dense to the sparse model 372979 weights")
    assert lines[1].split()[:3] == ["group", "n", "loss"]
    assert {line.split()[0] for line in lines[2:7]} == {
        *("label=blue", "label=green", "label=red", "group=even", "group=odd")
    }
    changes = [group.loss_change or 0 for group in explained().worst_first()]
    assert changes == sorted(changes, reverse=True)
    assert any(line.startswith("label: 3 groups, changes of loss ") for line in lines)
    assert "  3 groups can show no correlation: even a perfect one has p 0.33" in lines
    assert lines[-1] == "report: model.pruned.run/explanation.html"
    assert "no verdict" in lines[-2]


def test_formats_and_reports(here: Path) -> None:
    result = done(
        *("explain", *FAST, "--format", "json", "-o", "out"),
        *("--report", "markdown=why.md", "--report", "html=why.html"),
    )
    document = json.loads(result.stdout)
    assert document == json.loads(Path("out/explanation.json").read_text())
    described = json.loads(schema("explain"))
    assert wrong(document, described) == []
    assert sorted(document) == sorted(described["required"])
    assert Path("out/explanation.html").read_text() == Path("why.html").read_text()
    assert not Path("model.pruned.run").exists()
    assert Path("why.md").read_text().startswith("## ceag explain\n")
    page = Path("why.html").read_text()
    assert "<title>ceag explain</title>" in page
    assert page.count('<tr><th scope="row"><bdi>') == 5
    assert "src=" not in page


def test_a_format_of_audits_alone_is_refused(here: Path) -> None:
    result = ceag("explain", "--report", "junit=a.xml")
    assert result.exit_code == 2
    assert "'junit' is not one of text, json, markdown, html" in result.stderr
    result = ceag("explain", "--report", "a.xml")
    assert "'a.xml' is not FORMAT=FILE, e.g. markdown=why.md" in result.stderr
    result = ceag("explain", "-o", "why.html")
    assert result.exit_code == 2
    assert "-o why.html: names the folder of the explanation" in result.stderr


def test_a_report_that_cannot_be_written_leaves_the_others(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = atomic.write_text

    def failing(path: Path, text: str) -> None:
        if path.suffix == ".html":
            raise OutputError(f"{path.name}: cannot be written: no space")
        write(path, text)

    monkeypatch.setattr(reportfiles, "write_text", failing)
    result = ceag("explain", *FAST)
    assert result.exit_code == 2
    assert "explanation.html: cannot be written: no space" in result.stderr
    assert result.stdout.startswith("test: 12 images")
    assert Path("model.pruned.run/explanation.json").is_file()


def test_what_has_no_effect_is_said(here: Path) -> None:
    said = done("explain", *FAST, "--amp", "--overwrite").stderr
    assert "--amp has no effect on explain" in said
    assert "--overwrite has no effect on explain" in said


# In the audit


def test_an_audit_shows_the_explanation_of_its_own_models(here: Path) -> None:
    done("explain", *FAST)
    kept = json.loads(Path("model.pruned.run/explanation.json").read_text())
    result = audited()
    document = json.loads(Path("model.pruned.run/audit.json").read_text())
    assert document["explanation"] == kept["explanation"]
    assert "why (ceag explain): test: 12 images" in result.stdout
    assert "Why: gradients, curvature" in Path("model.pruned.run/audit.html").read_text()
    assert "why (ceag explain)" in ceag("audit", "--format", "markdown").stdout
    # The verdict knows nothing of it.
    Path("model.pruned.run/explanation.json").unlink()
    audited()
    without = json.loads(Path("model.pruned.run/audit.json").read_text())
    assert without["explanation"] is None
    assert {**without, "explanation": None} == {**document, "explanation": None}


def test_an_audit_does_not_take_the_explanation_of_others(here: Path) -> None:
    done("explain", *FAST, "--groups-by", "label")
    result = audited()
    assert "explanation.json: is about other groups; 'ceag explain' writes it anew" in result.stderr
    assert json.loads(Path("model.pruned.run/audit.json").read_text())["explanation"] is None


def test_what_is_no_explanation_is_not_taken(here: Path) -> None:
    found: Explained = explain(ExplainOptions(workers=0, max_iterations=1))
    place = Path("model.pruned.run/explanation.json")
    assert kept_explanation(place.parent, found.subject) == (found.explanation, None)
    for text in ("", "{}", "[]", "null", '{"models": 3}'):
        place.write_text(text)
        nothing, reason = kept_explanation(place.parent, found.subject)
        assert nothing is None
        assert reason is not None
        assert "holds no explanation" in reason
    assert kept_explanation(Path("nowhere"), found.subject) == (None, None)
    other = replace(found.subject, dense_sha256="0" * 64)
    place.write_text(json.dumps(found.document))
    _, reason = kept_explanation(place.parent, other)
    assert reason is not None
    assert "is about another dense model" in reason


# Numbers over groups


def toy(value: str, **numbers: float) -> GroupExplanation:
    return GroupExplanation("f", value, 10, 10, **numbers)  # type: ignore[arg-type]


def test_the_numbers_of_a_feature_by_hand() -> None:
    groups = [
        toy("a", loss_change=0.5, change_by_weights=0.4, first_order=0.2, second_order=0.4),
        toy("b", loss_change=0.1, change_by_weights=0.2, first_order=0.1, second_order=0.3),
        toy("c", loss_change=-0.2, change_by_weights=-0.4, first_order=0.0, second_order=-0.4),
        GroupExplanation("f", "empty", 0, 0),
    ]
    (found,) = features_of(groups, buffers_differ=True)
    assert found.groups == 3
    assert found.loss_gap == pytest.approx(0.7)
    assert found.error_first_order == pytest.approx((0.2 + 0.1 + 0.4) / 1.0)
    assert found.error_second_order == pytest.approx(0.1 / 1.0)
    rho = {(c.quantity, c.target): c.rho for c in found.correlations}
    assert rho["first_order", "loss_change"] == pytest.approx(1.0)
    assert rho["first_order", "excess_gap"] is None
    assert len(rho) == 8 * 3


def test_an_explanation_survives_json() -> None:
    groups = (
        toy("a", loss_change=0.5),
        toy("b", loss_change=0.1),
        GroupExplanation("f", "c", 0, 0),
    )
    found = Explanation(
        *("test", 20, 512, 42, 0.01, 100, 7, 2.0, 1.0, True, groups),
        features_of(groups, buffers_differ=True),
    )
    document = json.loads(json.dumps(explanation_document(found), allow_nan=False))
    assert explanation_from(document) == found
    assert np.isfinite(found.distance)
