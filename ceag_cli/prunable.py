"""Which parameters pruning may touch, and why the others stay dense.

By default the weights of convolutions and linear layers, but for the layer that sees the pixels and
the classifier, as timm names them. Everything with one dimension (biases, norms, layer scales) and
whatever is no layer's weight (class and position tokens, bias tables) always stays dense.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from timm.layers.std_conv import ScaledStdConv2d, ScaledStdConv2dSame, StdConv2d, StdConv2dSame
from torch import nn

from ceag_cli.errors import OptionError, nearest


def classifier_names(model: nn.Module) -> set[str]:
    """Names of the modules that make the final decision; distilled models have two."""
    config: Mapping[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
    named = config.get("classifier") or ()
    names = {named} if isinstance(named, str) else set(named)
    head = model.get_classifier() if hasattr(model, "get_classifier") else None  # type: ignore[operator]
    heads = head if isinstance(head, (tuple, list)) else [head]
    names |= {
        name
        for name, module in model.named_modules()
        if any(module is item for item in heads) and not isinstance(module, nn.Identity)
    }
    return names


def first_layer_names(model: nn.Module) -> set[str]:
    """Names of the layers that see the pixels.

    timm names them per architecture; where an argument has turned the layer into a sequence, or
    the name does not exist, it is the first convolution or linear layer there.
    """
    config: Mapping[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
    named = config.get("first_conv") or ()
    modules = dict(model.named_modules())
    names = set()
    for name in [named] if isinstance(named, str) else named:
        inside = [other for other in modules if other == name or other.startswith(f"{name}.")]
        names |= set(next(([other] for other in inside if _prunable(modules[other])), []))
    if not names:
        names |= set(next(([name] for name in modules if _prunable(modules[name])), []))
    return names


def _prunable(module: nn.Module) -> bool:
    return isinstance(module, (nn.Linear, nn.modules.conv._ConvNd))


def layer_weights(model: nn.Module) -> dict[str, str | None]:
    """The weights of all convolutions and linear layers, in the model's order.

    A weight shared by two layers is listed once.

    Returns:
        By parameter name why it is not pruned by default, ``None`` where it is.
    """
    parameters = {id(parameter): name for name, parameter in model.named_parameters()}
    roles = dict.fromkeys(first_layer_names(model), "first layer")
    roles |= dict.fromkeys(classifier_names(model), "classifier")
    found: dict[str, str | None] = {}
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if not _prunable(module) or id(weight) not in parameters:
            continue
        inside = [skip for skip in roles if name == skip or name.startswith(f"{skip}.")]
        role = roles[inside[0]] if inside else None
        parameter = parameters[id(weight)]
        # A shared weight is pruned if any of the layers that share it is.
        found[parameter] = role and found.get(parameter, role)
    return found


def prunable_parameters(
    model: nn.Module, include: str | None = None, exclude: str | None = None
) -> list[str]:
    """Names of the parameters that pruning may touch, in the model's order.

    Args:
        model: A timm model.
        include: Regular expression: only the weights whose names it is found in, among them the
            first layer and the classifier if it is found there.
        exclude: Regular expression: none of the weights whose names it is found in.

    Raises:
        OptionError: An expression is none, or is found in no name.
    """
    weights = layer_weights(model)
    chosen = [name for name, role in weights.items() if role is None]
    if include is not None:
        chosen = _matching("--include", include, list(weights))
    if exclude is not None:
        left_out = set(_matching("--exclude", exclude, chosen))
        chosen = [name for name in chosen if name not in left_out]
        if not chosen:
            raise OptionError(f"--exclude: '{exclude}' leaves no tensor to prune")
    return chosen


def _matching(option: str, expression: str, names: list[str]) -> list[str]:
    try:
        found = [name for name in names if re.search(expression, name)]
    except re.error as error:
        raise OptionError(
            f"{option}: '{expression}' is not a regular expression: {error}"
        ) from None
    if not found:
        raise OptionError(
            f"{option}: '{expression}' is found in the name of none of the {len(names)} tensors "
            f"that may be pruned{nearest(expression, names)}; --dry-run lists them"
        )
    return found


def why_dense(
    model: nn.Module, pruned: Iterable[str], unfit: Iterable[str] = (), pattern: str = ""
) -> dict[str, str]:
    """Why each parameter that is not pruned stays dense, in the model's order.

    Args:
        model: A timm model.
        pruned: The parameters that are.
        unfit: Those that would be, if the pattern fitted them.
        pattern: Its name.
    """
    weights, chosen = layer_weights(model), set(pruned)
    reasons = {name: role or "left out" for name, role in weights.items()}
    reasons |= dict.fromkeys(unfit, f"does not fit {pattern}")
    return {
        name: reasons.get(name, "no layer's weight")
        for name, _ in model.named_parameters()
        if name not in chosen
    }


def standardised(model: nn.Module) -> bool:
    """Whether layers standardise their weights before use (NFNet, BiT).

    A pruned weight is then zero in the file but not in the computation.
    """
    kinds = (StdConv2d, StdConv2dSame, ScaledStdConv2d, ScaledStdConv2dSame)
    return any(isinstance(module, kinds) for module in model.modules())
