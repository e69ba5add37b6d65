"""Pairs through the core."""

import time

import numpy as np
import pytest
import torch

from ddfm_core.fusion import FusionConfig
from ddfm_core.priors import CallablePrior
from ddfm_core.schedule import linear_schedule
from tasks.fuse import SourcePair, fuse_pairs
from tasks.register.same_size import on_same_grid


def pair(channels):
    generator = np.random.default_rng(0)
    shape = (channels, 32, 32)
    return SourcePair(*(generator.uniform(-1, 1, shape).astype(np.float32) for _ in range(2)), key=b"pair")


def owner(array):
    while isinstance(array, np.ndarray) and array.base is not None:
        array = array.base
    return array


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("samples", [1, 2])
def test_pictures_do_not_lean_on_tensors(channels, samples):
    prior = CallablePrior(lambda x_t, _: 0.6 * x_t, linear_schedule(), 1, 16)
    config = FusionConfig(steps=2, samples=samples)
    results = fuse_pairs([pair(channels)] * 2, prior, config, 2, time.perf_counter, lambda _: None)
    for fused in results:
        assert fused.image.shape == (channels, 32, 32)
        assert (fused.std is None) == (samples == 1)
        assert not isinstance(owner(fused.image), torch.Tensor)
        assert not isinstance(owner(fused.std), torch.Tensor)


def test_resized_sources_do_not_lean_on_tensors():
    small, large = np.zeros((1, 16, 16), np.float32), np.zeros((1, 32, 32), np.float32)
    assert not isinstance(owner(on_same_grid(small, large, "resize")), torch.Tensor)
