"""The adaptive rule on scenes of which the right answer is known, without a prior and beside a picture of one."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ddfm_core.ablations import rectify_alone
from ddfm_core.adaptive import AdaptiveRectifier
from ddfm_core.gradient_domain import inner_gradient
from ddfm_core.sampler import Guidance

LEVEL = 2 / 255
SIDE = 64


def flat(level: float) -> Tensor:
    """A picture of one grey level, 0 to 255."""
    return torch.full((1, 1, SIDE, SIDE), level / 127.5 - 1)


def texture(amplitude: float, seed: int = 0) -> Tensor:
    """Smooth noise of that many grey levels."""
    noise = torch.randn(1, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
    noise = torch.nn.functional.avg_pool2d(torch.nn.functional.pad(noise, (1, 1, 1, 1), mode="reflect"), 3, 1)
    return amplitude * LEVEL * noise / noise.std()


def fused(first: Tensor, second: Tensor) -> Tensor:
    """The rule without a prior, until it has settled."""
    return rectify_alone(Guidance(AdaptiveRectifier(), first, second), 25)


def energy(picture: Tensor, where: tuple[slice, slice]) -> float:
    """Of the gradient, mean over a part."""
    return float(inner_gradient(picture)[..., where[0], where[1]].square().mean())


MIDDLE = (slice(8, -8), slice(8, -8))


def test_a_hot_target_keeps_its_contrast():
    infrared, visible = flat(60), flat(90) + texture(12)
    infrared[..., 24:44, 28:36] = 220 / 127.5 - 1
    picture = fused(infrared, visible)
    around = torch.cat([picture[..., 24:44, 16:22], picture[..., 24:44, 42:48]], dim=-1).mean()
    contrast = float(picture[..., 26:42, 30:34].mean() - around) / LEVEL
    assert contrast >= 0.8 * (220 - 90)


@pytest.mark.parametrize("other", [20, 128, 235, 255])
@pytest.mark.parametrize("swap", [False, True])
def test_texture_that_one_source_has_is_kept(other, swap):
    textured = flat(120) + texture(10)
    sources = (flat(other), textured) if swap else (textured, flat(other))
    assert energy(fused(*sources), MIDDLE) >= 0.8 * energy(textured, MIDDLE)


def test_bone_of_the_ct_lies_around_the_soft_tissue_of_the_mri():
    ct, mri = flat(0), flat(0)
    ct[..., 8:56, 8:56] = 1.0
    ct[..., 12:52, 12:52] = -1.0
    mri[..., 12:52, 12:52] = (flat(110) + texture(15))[..., 12:52, 12:52]
    picture = fused(ct, mri)
    assert float(picture[..., 9:11, 16:48].mean()) > 0.8
    inside = (slice(18, 46), slice(18, 46))
    assert energy(picture, inside) >= 0.8 * energy(mri, inside)


def test_an_empty_background_stays_dark():
    first, second = flat(0), flat(2)
    first[..., 20:40, 20:40] = 1.0
    second[..., 24:44, 24:44] = 0.2
    background = fused(first, second)[..., :16, :16]
    assert float(background.max() - torch.maximum(first, second)[..., :16, :16].max()) <= LEVEL


@pytest.mark.parametrize("opposite", [False, True])
def test_edges_do_not_overshoot(opposite):
    first, second = flat(80), flat(100)
    first[..., 32:] = 180 / 127.5 - 1
    second[..., 32:] = (60 if opposite else 160) / 127.5 - 1
    picture = fused(first, second)
    lower, upper = torch.minimum(first, second), torch.maximum(first, second)
    assert float((picture - upper).max()) <= 3 * LEVEL
    assert float((lower - picture).max()) <= 3 * LEVEL


def test_a_lamp_before_a_warm_background_gets_no_dark_halo():
    along = torch.arange(SIDE) - SIDE / 2
    distance = torch.hypot(along[:, None], along[None])
    infrared = flat(130) + texture(1)
    visible = (40 + 190 * torch.exp(-((distance / 6) ** 2)))[None, None] / 127.5 - 1
    picture = fused(infrared, visible)
    brighter = torch.maximum(infrared, visible)
    assert float((brighter - picture).max()) <= 10 * LEVEL
    assert float(picture[..., 31:33, 31:33].mean()) >= float(brighter[..., 31:33, 31:33].mean()) - 5 * LEVEL


def test_noise_of_one_source_does_not_grow():
    noisy, clean = flat(100) + texture(6), flat(140)
    clean[..., 32:] = 200 / 127.5 - 1
    picture = fused(noisy, clean)
    for part in ((slice(8, -8), slice(6, 26)), (slice(8, -8), slice(38, 58))):
        assert energy(picture, part) <= 1.02 * energy(noisy, part)


def test_two_equal_sources_give_themselves():
    picture = flat(120) + texture(20)
    torch.testing.assert_close(fused(picture, picture), picture, atol=LEVEL / 2, rtol=0)


def test_the_sources_may_change_places():
    first, second = flat(90) + texture(12, 1), flat(150) + texture(8, 2)
    torch.testing.assert_close(fused(first, second), fused(second, first), atol=1e-5, rtol=0)


def test_members_of_a_batch_do_not_know_each_other():
    first = torch.cat([flat(90) + texture(12, 1), flat(30) + texture(20, 3)])
    second = torch.cat([flat(150) + texture(8, 2), flat(200)])
    together = fused(first, second)
    for member in range(2):
        alone = fused(first[member : member + 1], second[member : member + 1])
        torch.testing.assert_close(together[member : member + 1], alone, atol=1e-5, rtol=0)


def test_the_prior_counts_for_more_as_the_noise_falls():
    first, second, wanted = flat(100) + texture(10, 1), flat(100), flat(100)
    rule = AdaptiveRectifier()
    distances = []
    for sigma in (math.inf, 1.0, 0.1, 0.01, 0.001):
        state = rule.start(first, second)
        for _ in range(20):
            picture, state = rule.rectify(wanted, first, second, state, sigma)
        distances.append(float((picture - wanted).square().mean().sqrt()))
    assert distances == sorted(distances, reverse=True)
    assert distances[0] > 8 * LEVEL
    assert distances[-1] < LEVEL / 2
