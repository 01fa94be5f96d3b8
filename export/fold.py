"""Batch normalisation becomes part of the convolution before it.

Done here, in torch, so that weights are rounded after it and no compiler does it its own way.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


def fold_batch_norms(network: nn.Module, *example: Tensor) -> nn.Module:
    """A copy in which every batch normalisation that reads a convolution's output is part of it.

    Which reads which is seen in one forward pass. A normalisation that reads anything else stays.

    Args:
        network: in evaluation mode.
        example: inputs of one forward pass.
    """
    folded = copy.deepcopy(network)
    for name, (conv, norm) in _pairs(folded, example).items():
        _fold(conv, norm)
        # timm's normalisation carries the activation that follows.
        after = [getattr(norm, part) for part in ("drop", "act") if hasattr(norm, part)]
        folded.set_submodule(name, nn.Sequential(*after))
    return folded


def _pairs(
    network: nn.Module, example: tuple[Tensor, ...]
) -> dict[str, tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """By the normalisation's name: the convolution whose output it reads, if nothing else ran."""
    convolved: list[tuple[Tensor, nn.Conv2d]] = []
    pairs: dict[str, tuple[nn.Conv2d, nn.BatchNorm2d]] = {}
    names = {module: name for name, module in network.named_modules()}

    def after_conv(conv: nn.Module, _inputs: object, output: Tensor) -> None:
        convolved.append((output, conv))  # type: ignore[arg-type]

    def before_norm(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        for output, conv in convolved:
            if output is inputs[0]:
                pairs[names[norm]] = (conv, norm)  # type: ignore[assignment]

    hooks = [
        module.register_forward_hook(after_conv)
        if isinstance(module, nn.Conv2d)
        else module.register_forward_pre_hook(before_norm)
        for module in network.modules()
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d)
    ]
    with torch.inference_mode():
        network(*example)
    for hook in hooks:
        hook.remove()
    return pairs


@torch.no_grad()
def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    mean, var = norm.running_mean, norm.running_var
    if mean is None or var is None:
        raise ValueError("batch normalisation without running statistics cannot be exported")
    scale = (var.double() + norm.eps).rsqrt()
    shift = -mean.double() * scale
    if norm.affine:
        scale, shift = scale * norm.weight, shift * norm.weight + norm.bias
    if conv.bias is not None:
        shift = shift + conv.bias * scale
    dtype = conv.weight.dtype
    conv.weight.copy_((conv.weight * scale.view(-1, 1, 1, 1)).to(dtype))
    conv.bias = nn.Parameter(shift.to(dtype), requires_grad=False)
