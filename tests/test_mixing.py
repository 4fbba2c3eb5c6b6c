"""Mixed images, and evaluation on them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from toys import CPU, HALF, a_split, tiny_model

from ceag_cli.evaluation import Compute, evaluate, evaluate_mixed
from ceag_cli.mixing import mixed
from ceag_cli.progress import Quiet


def test_every_image_is_mixed_with_the_one_before_it() -> None:
    images = torch.tensor([[0.0], [10.0], [20.0]])
    # 0.7 of 0, 10 and 20, and 0.3 of 20, 0 and 10
    assert mixed(images, 0.7).flatten().tolist() == [6.0, 7.0, 17.0]


def test_a_share_of_one_and_a_single_image_change_nothing() -> None:
    images = torch.rand(4, 3, 2, 2)
    assert torch.equal(mixed(images, 1.0), images)
    assert torch.equal(mixed(images[:1], 0.7), images[:1])


class Brightness(nn.Module):
    """Class 0 for dark images, 1 for bright ones, and remembers what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, inputs: Tensor) -> Tensor:
        self.seen.append(inputs)
        bright = inputs.mean(dim=(1, 2, 3))
        return torch.stack([-bright, bright, torch.full_like(bright, -9.0)], dim=1)


def test_all_models_are_evaluated_on_the_same_mixtures() -> None:
    compute = Compute(CPU, batch_size=23)  # of 24 images, the last would be alone
    one, same, other = Brightness(), Brightness(), Brightness()
    for model, seed in ((one, 1), (same, 1), (other, 2)):
        evaluate_mixed(model, a_split(), HALF, compute, 0.7, seed, Quiet(), "test")
    assert [len(inputs) for inputs in one.seen] == [24]
    assert torch.equal(one.seen[0], same.seen[0])
    assert not torch.equal(one.seen[0], other.seen[0])


def test_answers_on_mixtures_are_in_the_order_of_the_split() -> None:
    """With a share of 1 they are those on the images themselves."""
    model, split, compute = tiny_model("test_resnet"), a_split(), Compute(CPU, batch_size=7)
    plain = evaluate(model, split, HALF, compute, Quiet(), "test")
    found = evaluate_mixed(model, split, HALF, compute, 1.0, 5, Quiet(), "test")
    assert torch.equal(found.predicted, plain.predicted)
    assert torch.allclose(found.loss, plain.loss, atol=1e-5)
    other = evaluate_mixed(model, split, HALF, compute, 0.6, 5, Quiet(), "test")
    assert not torch.allclose(other.loss, plain.loss, atol=1e-5)
