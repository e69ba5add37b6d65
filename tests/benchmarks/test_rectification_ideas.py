"""The rule that the ideas are variations of is the one that is shipped."""

import pytest
import torch
from torch import Tensor

from benchmarks.rectification_ideas import IDEAS
from ddfm_core.adaptive import AdaptiveRectifier


def random_pictures(seed: int, smooth: bool) -> Tensor:
    """[2, 1, 48, 60] in [-1, 1]: white noise, or coarse shapes with some of it."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(2, 1, 48, 60, generator=generator) * 2 - 1
    if not smooth:
        return noise
    coarse = torch.rand(2, 1, 6, 6, generator=generator) * 2.4 - 1.2
    shapes = torch.nn.functional.interpolate(coarse, size=(48, 60), mode="bicubic")
    return (shapes + 0.05 * noise).clamp(-1, 1)


@pytest.mark.parametrize("smooth", [False, True])
def test_what_is_shipped_is_the_rule_of_the_core(smooth: bool) -> None:
    for seed in range(4):
        first, second = random_pictures(seed, smooth), random_pictures(100 + seed, smooth)
        shipped = AdaptiveRectifier().start(first, second).picture
        torch.testing.assert_close(IDEAS["shipped"](first, second), shipped, rtol=0, atol=1e-5)
