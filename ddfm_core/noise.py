"""Noise that depends on what is fused, never on the batch, the order or the device it is fused in.

Every field of noise comes from a counter-based generator of its own (Philox: Salmon et al., SC 2011), keyed by a hash
of the seed, the key of the pair and the purpose of the field. It is drawn on the CPU, so that all devices see
the same numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ddfm_core.colour import is_grey


def keyed_noise(seed: int, key: bytes, purpose: str, shape: Sequence[int]) -> Tensor:
    """Standard normal float32 tensor of ``shape`` on the CPU, a function of the arguments alone.

    Args:
        seed: any integer.
        key: what the noise belongs to, such as a hash of the pair's content.
        purpose: what it is for, such as "x_T" or "timestep 980"; other purposes give independent noise.
    """
    digest = hashlib.sha256(f"{seed}|{purpose}|".encode() + key).digest()
    generator = np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))
    return torch.from_numpy(generator.standard_normal(tuple(shape), dtype=np.float32))


def batch_noise(seed: int, keys: Sequence[bytes], purpose: str, shape: Sequence[int], device: torch.device) -> Tensor:
    """:func:`keyed_noise` of ``shape`` [C, H, W] for each of B keys, as one tensor [B, C, H, W] on ``device``."""
    fields = torch.stack([keyed_noise(seed, key, purpose, shape) for key in keys])
    return fields.to(device, non_blocking=True)


def content_keys(first: Tensor, second: Tensor) -> list[bytes]:
    """One key per pair from what its two sources show: 32 bytes each.

    Sources [B, 1 or 3, H, W] are hashed as float32; a member with R = G = B has the key of its single channel.
    """
    return [_digest(a) + _digest(b) for a, b in zip(_members(first), _members(second), strict=True)]


def _members(image: Tensor) -> list[Tensor]:
    members = image.detach().float().cpu()
    return [member[:1] if grey else member for member, grey in zip(members, is_grey(members).tolist(), strict=True)]


def _digest(member: Tensor) -> bytes:
    values = member.contiguous().numpy().astype("<f4")
    return hashlib.sha256(repr(values.shape).encode() + values.tobytes()).digest()[:16]
