"""Fills a small network of this project from its safetensors file. Knows networks by their shapes alone."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from compute.capability import Dtype
from p2p.errors import Misconfigured

TORCH_DTYPE = {Dtype.FP32: torch.float32, Dtype.FP16: torch.float16, Dtype.BF16: torch.bfloat16}
_SLACK = 1 << 16  # bytes of a header


def fill(net: nn.Module, file: Path, *, device: str, dtype: Dtype) -> None:
    """Give the network these weights, for use only. Raises Misconfigured when they are not exactly its own."""
    most = 4 * sum(value.numel() for value in net.state_dict().values()) + _SLACK
    try:
        if file.stat().st_size > most:
            raise Misconfigured(f"{file} is larger than this network can be")
        net.load_state_dict({name: value.float() for name, value in load_file(file).items()})
    except (OSError, SafetensorError, RuntimeError, ValueError, KeyError) as exc:
        raise Misconfigured(f"{file} cannot be loaded: {type(exc).__name__}: {exc}") from exc
    net.to(device, TORCH_DTYPE[dtype]).eval().requires_grad_(False)
