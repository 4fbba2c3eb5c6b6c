"""Compressed rows: layers that pass over their zeros, for inference on a CPU.

A layer of PyTorch multiplies zeros like any other number. Here its weight is kept in compressed
rows (CSR), so that only what is left is stored and multiplied. The weights are the same and the
outputs differ by rounding alone; docs/pruning.md has the speed measured.
"""

from __future__ import annotations

import copy
import warnings

import torch
from torch import Tensor, nn
from torch.nn import functional

ROWS_AT_A_TIME = 256
"""Inputs of a linear layer in one product; with many more of them the memory is the limit."""


class _Rows(nn.Module):
    """What both kinds of layers have: the weight in compressed rows, and the bias."""

    def __init__(self, layer: nn.Linear | nn.Conv2d) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch calls its compressed rows a beta
            rows = layer.weight.detach().flatten(1).to_sparse_csr()
        self.register_buffer("rows", rows, persistent=False)
        self.bias = layer.bias

    rows: Tensor
    bias: Tensor | None


class RowsLinear(_Rows):
    """A linear layer."""

    def forward(self, x: Tensor) -> Tensor:
        """As ``nn.Linear``."""
        flat = x.reshape(-1, x.shape[-1])
        out = x.new_empty(len(flat), self.rows.shape[0])
        for start in range(0, len(flat), ROWS_AT_A_TIME):
            part = slice(start, start + ROWS_AT_A_TIME)
            out[part] = (self.rows @ flat[part].t()).t()
        if self.bias is not None:
            out += self.bias
        return out.reshape(*x.shape[:-1], -1)


class RowsConv2d(_Rows):
    """A convolution, as a product with the unfolded image."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__(layer)
        assert not isinstance(layer.padding, str)
        self.kernel, self.stride = layer.kernel_size, layer.stride
        self.padding, self.dilation = layer.padding, layer.dilation

    def forward(self, x: Tensor) -> Tensor:
        """As ``nn.Conv2d``."""
        height, width = (
            (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
            for size, kernel, stride, padding, dilation in zip(
                x.shape[2:], self.kernel, self.stride, self.padding, self.dilation, strict=True
            )
        )
        out = x.new_empty(len(x), self.rows.shape[0], height * width)
        for i, image in enumerate(x):
            out[i] = self.rows @ self._columns(image)
        if self.bias is not None:
            out += self.bias[:, None]
        return out.reshape(len(x), -1, height, width)

    def _columns(self, image: Tensor) -> Tensor:
        """What each place of the output sees of an image, as a column."""
        if self.kernel == (1, 1) and self.padding == (0, 0):
            return image[:, :: self.stride[0], :: self.stride[1]].flatten(1)
        columns: Tensor = functional.unfold(
            image[None], self.kernel, self.dilation, self.padding, self.stride
        )[0]
        return columns


class OneByOne(nn.Module):
    """A model that takes the images of a batch one after the other."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    @torch.inference_mode()
    def forward(self, images: Tensor) -> Tensor:
        """The outputs of all images."""
        return torch.cat([self.model(image[None]) for image in images])


@torch.no_grad()
def compress_rows(model: nn.Module, images: Tensor, *, from_sparsity: float = 0.85) -> nn.Module:
    """A copy of a pruned model that passes over its zeros, for inference on a CPU.

    Linear layers and convolutions (without groups) change that have many zeros. Images go through
    it one by one, which is faster, since what is between the layers then stays in the cache. It
    has no weights to be saved or trained: keep the model that it was made of.

    Args:
        model: In single precision, on the CPU; it stays as it is.
        images: A batch to try the model on: layers whose weights it uses in another way than by
            calling the layer, as some attentions do, stay as they are.
        from_sparsity: Fraction of zeros from which a layer is changed; with fewer it would be
            slower.
    """
    model = copy.deepcopy(model).eval()
    called: set[str] = set()
    hooks = [
        module.register_forward_pre_hook(lambda _module, _args, name=name: called.add(name))
        for name, module in model.named_modules()
        if _fits(module, from_sparsity)
    ]
    try:
        model(images)
    finally:
        for hook in hooks:
            hook.remove()
    for name in sorted(called):
        layer = model.get_submodule(name)
        kind = RowsLinear if isinstance(layer, nn.Linear) else RowsConv2d
        model.set_submodule(name, kind(layer))  # type: ignore[arg-type]
    return OneByOne(model)


def _fits(module: nn.Module, from_sparsity: float) -> bool:
    """Whether a layer has the zeros, and is no variant that computes more than its name says."""
    if type(module) is nn.Conv2d:
        usual = module.padding_mode == "zeros" and not isinstance(module.padding, str)
        if module.groups != 1 or not usual:
            return False
    elif type(module) is not nn.Linear:
        return False
    weight = module.weight
    return bool(1 - int(weight.count_nonzero()) / max(weight.numel(), 1) >= from_sparsity)
