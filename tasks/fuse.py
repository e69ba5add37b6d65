"""Pairs of many sizes through the core, in batches of one size."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from ddfm_core.fusion import FusionConfig, fuse
from ddfm_core.priors import Prior
from tasks.codes import Code, PairError

logger = logging.getLogger(__name__)

FUSION_ERRORS: Final = (RuntimeError, MemoryError, ValueError)
"""What :func:`~ddfm_core.fusion.fuse` raises: torch calls a full memory, a broken kernel and a bad shape alike."""


@dataclass(frozen=True, eq=False)
class SourcePair:
    """Two normalised pictures, float32 [C, H, W] in [-1, 1], C 1 or 3 each, and what keys their noise."""

    first: NDArray[np.float32]
    second: NDArray[np.float32]
    key: bytes


@dataclass(frozen=True, eq=False)
class Fused:
    """A fused picture and what became known with it.

    Attributes:
        image: float32 [C, H, W] in [-1, 1].
        out_of_gamut: share of its pixels that chroma would have led out of the range, 0 to 1.
        std: of several samples, the standard deviation of luma float32 [H, W], in units of [-1, 1]; else None.
        seconds: its share of what its batch took.
    """

    image: NDArray[np.float32]
    out_of_gamut: float
    std: NDArray[np.float32] | None = None
    seconds: float = 0.0


def fuse_pairs(
    pairs: Sequence[SourcePair],
    prior: Prior,
    config: FusionConfig,
    batch: int,
    clock: Callable[[], float],
    on_fused: Callable[[float], None],
    explain: Callable[[BaseException], str] = lambda error: f"{type(error).__name__}: {error}",
) -> list[Fused | PairError]:
    """Fuse each pair; the answers stand in the order of ``pairs``.

    Pairs of one size and one kind (grey or RGB) go together, ``batch`` at a time, in the given order, so the
    same list always makes the same batches. A batch that fails is tried again pair by pair; a pair that fails
    alone becomes a :class:`PairError`.

    Args:
        clock: seconds, such as ``time.perf_counter``.
        on_fused: told the number of pairs that a batch has finished.
        explain: what may be told of an error.
    """
    results: dict[int, Fused | PairError] = {}
    for group in batches_of_one_size(pairs, batch):
        began = clock()
        fused = _fuse_batch([pairs[index] for index in group], prior, config, explain)
        seconds = (clock() - began) / len(group)
        for index, outcome in zip(group, fused, strict=True):
            results[index] = outcome if isinstance(outcome, PairError) else replace(outcome, seconds=seconds)
        on_fused(len(group))
    return [results[index] for index in range(len(pairs))]


def batches_of_one_size(pairs: Sequence[SourcePair], batch: int) -> list[list[int]]:
    """Which pairs :func:`fuse_pairs` puts together, by their index in ``pairs``, in the order of the work."""
    buckets: defaultdict[tuple[tuple[int, ...], tuple[int, ...]], list[int]] = defaultdict(list)
    for index, pair in enumerate(pairs):
        buckets[pair.first.shape, pair.second.shape].append(index)
    return [members[start : start + batch] for members in buckets.values() for start in range(0, len(members), batch)]


def _fuse_batch(
    group: list[SourcePair], prior: Prior, config: FusionConfig, explain: Callable[[BaseException], str]
) -> list[Fused | PairError]:
    try:
        first = torch.from_numpy(np.stack([pair.first for pair in group]))
        second = torch.from_numpy(np.stack([pair.second for pair in group]))
        result = fuse(first, second, prior, config, keys=[pair.key for pair in group])
        images = _owned(result.image)
        shares = result.out_of_gamut.tolist()
        stds = [None] * len(group) if result.std is None else [*_owned(result.std[:, 0])]
    except FUSION_ERRORS as error:
        if len(group) == 1:
            logger.warning("a pair could not be fused: %s", explain(error))
            return [PairError(code_of(error), explain(error))]
        return [outcome for pair in group for outcome in _fuse_batch([pair], prior, config, explain)]
    return [
        Fused(image, share, std)
        if np.isfinite(image).all()
        else PairError(Code.FUSION_FAILED, "the result is not finite")
        for image, share, std in zip(images, shares, stds, strict=True)
    ]


def code_of(error: BaseException) -> Code:
    """What one of ``FUSION_ERRORS`` means for its pair."""
    memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)
    return Code.OUT_OF_MEMORY if memory else Code.FUSION_FAILED


def _owned(values: torch.Tensor) -> NDArray[np.float32]:
    # Arrays that lean on tensors must not travel: who lets go of a tensor in a thread that outlives the interpreter, as
    # those of Prefect may, ends the process with SIGABRT.
    array: NDArray[np.float32] = values.float().cpu().numpy().copy()
    return array
