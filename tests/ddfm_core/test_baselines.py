"""The classical rules: what they pick, what they keep, and that borders do nothing of their own."""

from collections.abc import Callable
from typing import get_args

import pytest
import torch
from torch import Tensor

from ddfm_core.baselines import BASE_WEIGHT, Baseline, fuse_baseline, gradient_fusion, laplacian_fusion

BASELINES: tuple[Baseline, ...] = get_args(Baseline)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 1.8 - 0.9


def test_mean_and_max() -> None:
    first, second = random(2, 1, 16, 20), random(2, 1, 16, 20, seed=1)
    torch.testing.assert_close(fuse_baseline("mean", first, second), torch.stack([first, second]).mean(dim=0))
    assert torch.equal(fuse_baseline("max", first, second), torch.stack([first, second]).amax(dim=0))


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("size", [(16, 16), (17, 16), (33, 50), (64, 31)])
def test_a_picture_fused_with_itself_is_itself(baseline: Baseline, size: tuple[int, int]) -> None:
    picture = random(1, 1, *size)
    torch.testing.assert_close(fuse_baseline(baseline, picture, picture), picture, rtol=0, atol=1e-5)


@pytest.mark.parametrize("baseline", BASELINES)
def test_flat_sources_give_a_flat_picture(baseline: Baseline) -> None:
    first, second = torch.full((1, 1, 37, 26), -0.4), torch.full((1, 1, 37, 26), 0.2)
    wanted = -0.1 if baseline == "mean" else 0.2
    torch.testing.assert_close(
        fuse_baseline(baseline, first, second), torch.full((1, 1, 37, 26), wanted), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("baseline", BASELINES)
def test_a_batch_is_fused_like_its_members(baseline: Baseline) -> None:
    first, second = random(3, 1, 40, 33), random(3, 1, 40, 33, seed=1)
    batch = fuse_baseline(baseline, first, second)
    for member in range(3):
        alone = fuse_baseline(baseline, first[member : member + 1], second[member : member + 1])
        torch.testing.assert_close(batch[member : member + 1], alone, rtol=0, atol=1e-6)


def texture(height: int, width: int, period: float) -> Tensor:
    columns, rows = torch.arange(width), torch.arange(height)[:, None]
    return (torch.sin(columns * 6.283 / period) * torch.sin(rows * 6.283 / period))[None, None]


@pytest.mark.parametrize("rule", [laplacian_fusion, gradient_fusion])
def test_each_source_gives_the_texture_that_only_it_has(rule: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Left half textured in one source, right half in the other: both textures stay, the mean would halve them."""
    pattern = 0.3 * texture(64, 128, 6)
    left = (torch.arange(128) < 64).float()
    first, second = pattern * left - 0.1, pattern * (1 - left) - 0.1
    fused = rule(first, second)
    for half in (slice(8, 56), slice(72, 120)):
        inner = fused[..., 8:56, half]
        kept = (inner - inner.mean()).square().sum() / pattern[..., 8:56, half].square().sum()
        assert kept > 0.64, rule


def test_gradient_fusion_is_the_minimum() -> None:
    """The loss written out anew, with differences inside the picture only, has no gradient at the result."""
    first = random(1, 1, 18, 23).double()
    flat = torch.zeros_like(first)  # so that the gradients to follow are those of the first source
    fused = gradient_fusion(first, flat).requires_grad_()
    base = torch.maximum(first, flat)

    def loss(picture: Tensor) -> Tensor:
        smooth = sum((picture - first).diff(dim=axis).square().sum() for axis in (-1, -2))
        return smooth + BASE_WEIGHT * (picture - base).square().sum()

    loss(fused).backward()  # type: ignore[no-untyped-call]
    assert fused.grad is not None
    assert fused.grad.abs().max() < 1e-9


def test_an_edge_at_one_border_does_not_reach_the_opposite_one() -> None:
    """On a periodic grid the bright right border would shine into the left one."""
    first, second = torch.full((1, 1, 48, 48), -0.5), torch.full((1, 1, 48, 48), -0.5)
    first[..., 40:] = 0.9
    for rule in (laplacian_fusion, gradient_fusion):
        torch.testing.assert_close(rule(first, second)[..., :8], second[..., :8], rtol=0, atol=1e-3)


def test_sources_of_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"both be \[B, 1, H, W\]"):
        fuse_baseline("mean", random(1, 1, 16, 16), random(1, 1, 16, 17))
    with pytest.raises(ValueError, match=r"both be \[B, 1, H, W\]"):
        fuse_baseline("mean", random(1, 3, 16, 16), random(1, 3, 16, 16))
