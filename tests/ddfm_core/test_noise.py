"""Keyed noise: the arguments, and nothing else, choose it."""

import pytest
import torch
from scipy.stats import kstest

from ddfm_core.noise import batch_noise, content_keys, keyed_noise

CPU = torch.device("cpu")


def test_the_numbers_themselves() -> None:
    """Results may be compared across versions only as long as these stay."""
    noise = keyed_noise(0, b"pair", "x_T", (4,))
    assert noise.dtype == torch.float32
    assert noise.tolist() == pytest.approx([-0.9685285, 0.3616391, -0.3173785, 1.0749966], abs=1e-6)


def test_every_argument_matters() -> None:
    reference = keyed_noise(0, b"pair", "x_T", (1, 8, 8))
    assert torch.equal(reference, keyed_noise(0, b"pair", "x_T", (1, 8, 8)))
    for other in ((1, b"pair", "x_T"), (-1, b"pair", "x_T"), (0, b"pear", "x_T"), (0, b"pair", "timestep 0")):
        correlation = torch.corrcoef(torch.stack([reference.flatten(), keyed_noise(*other, (1, 8, 8)).flatten()]))
        assert abs(correlation[0, 1].item()) < 0.5


def test_standard_normal() -> None:
    noise = keyed_noise(7, b"", "x_T", (3, 128, 128))
    assert kstest(noise.flatten().numpy(), "norm").pvalue > 0.01


def test_batch_and_order_do_not_matter() -> None:
    a, b, c = (batch_noise(3, [key], "x_T", (3, 4, 5), CPU) for key in (b"a", b"b", b"c"))
    assert torch.equal(batch_noise(3, [b"c", b"a", b"b"], "x_T", (3, 4, 5), CPU), torch.cat([c, a, b]))


def test_content_keys_follow_content() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.rand(3, 1, 16, 17, generator=generator) for _ in range(2))
    keys = content_keys(first, second)
    assert len(set(keys)) == 3
    assert content_keys(first.flip(0), second.flip(0)) == keys[::-1]
    assert content_keys(first[1:2], second[1:2]) == keys[1:2]
    assert content_keys(second, first)[0] != keys[0]
    assert content_keys(first.mT.contiguous().mT, second) == keys  # memory layout is no content
    changed = first.clone()
    changed[0, 0, 3, 3] += 1e-6
    assert [a == b for a, b in zip(content_keys(changed, second), keys, strict=True)] == [False, True, True]


def test_three_equal_channels_are_one() -> None:
    generator = torch.Generator().manual_seed(0)
    grey, colour = torch.rand(1, 1, 16, 16, generator=generator), torch.rand(1, 3, 16, 16, generator=generator)
    assert content_keys(grey.expand(-1, 3, -1, -1), grey) == content_keys(grey, grey)
    assert content_keys(colour, grey) != content_keys(colour[:, :1], grey)
