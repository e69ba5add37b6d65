"""The adaptive rule on scenes of which the right answer is known, alone and as it is used, with the bundled prior."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor

from ddfm_core.ablations import rectify_alone
from ddfm_core.adaptive import AdaptiveRectifier
from ddfm_core.fusion import FusionConfig, fuse
from ddfm_core.gradient_domain import inner_gradient
from ddfm_core.priors import Prior, load_prior
from ddfm_core.sampler import Guidance

LEVEL = 2 / 255
SIDE = 64
Rule = Callable[[Tensor, Tensor], Tensor]


def flat(level: float, side: int = SIDE) -> Tensor:
    """A picture of one grey level, 0 to 255."""
    return torch.full((1, 1, side, side), level / 127.5 - 1)


def noise(amplitude: float, seed: int = 0, side: int = SIDE) -> Tensor:
    """White noise of that many grey levels."""
    values = torch.randn(1, 1, side, side, generator=torch.Generator().manual_seed(seed))
    return amplitude * LEVEL * values / values.std()


def texture(amplitude: float, seed: int = 0, side: int = SIDE) -> Tensor:
    """Smooth noise of that many grey levels."""
    smooth = torch.nn.functional.pad(noise(1, seed, side), (1, 1, 1, 1), mode="reflect")
    smooth = torch.nn.functional.avg_pool2d(smooth, 3, 1)
    return amplitude * LEVEL * smooth / smooth.std()


def fused(first: Tensor, second: Tensor) -> Tensor:
    """The rule without a prior, until it has settled."""
    return rectify_alone(Guidance(AdaptiveRectifier(), first, second), 25)


@cache
def bundled() -> Prior:
    return load_prior("bundled")


def fused_by_default(first: Tensor, second: Tensor) -> Tensor:
    """As a user gets it."""
    return fuse(first, second, bundled(), FusionConfig()).image


@pytest.fixture(params=[fused, fused_by_default], ids=["alone", "by default"])
def rule(request: pytest.FixtureRequest) -> Rule:
    found: Rule = request.param
    return found


def energy(picture: Tensor, where: tuple[slice, slice]) -> float:
    """Of the gradient, mean over a part."""
    return float(inner_gradient(picture)[..., where[0], where[1]].square().mean())


def darkening(picture: Tensor, even: Tensor) -> float:
    """By how many grey levels an even ground, where ``even`` is true, lies below that in the corner at most.

    In means over 3 x 3 pixels that are ground all of them.
    """
    means = torch.nn.functional.avg_pool2d(picture, 3, 1)
    ground = torch.nn.functional.avg_pool2d(even.to(picture), 3, 1) > 0.99
    return float(picture[..., :8, :8].mean() - means[ground].min()) / LEVEL


MIDDLE = (slice(8, -8), slice(8, -8))


@pytest.mark.parametrize("ground", [60, 90, 150])
def test_a_hot_target_keeps_its_contrast(rule, ground):
    """As much as it has in the infrared picture where the visible ground is dark, as the brighter picture elsewhere."""
    infrared, visible = flat(60), flat(ground) + texture(12)
    infrared[..., 24:44, 28:36] = 220 / 127.5 - 1
    picture = rule(infrared, visible)
    around = torch.cat([picture[..., 24:44, 16:22], picture[..., 24:44, 42:48]], dim=-1).mean()
    contrast = float(picture[..., 26:42, 30:34].mean() - around) / LEVEL
    assert contrast >= 0.8 * (220 - ground)
    assert abs(float(around - picture[..., :, :12].mean())) <= 8 * LEVEL


@pytest.mark.parametrize("other", [20, 128, 235, 255])
@pytest.mark.parametrize("swap", [False, True])
def test_texture_that_one_source_has_is_kept(rule, other, swap):
    textured = flat(120) + texture(10)
    sources = (flat(other), textured) if swap else (textured, flat(other))
    assert energy(rule(*sources), MIDDLE) >= 0.8 * energy(textured, MIDDLE)


@pytest.mark.parametrize("level", [200, 255])
@pytest.mark.parametrize(("side", "extent"), [(64, 32), (128, 64)])
def test_an_overexposed_region_shows_what_the_other_source_has_there(rule, level, side, extent):
    visible, infrared = flat(60, side), flat(120, side) + texture(10, side=side)
    begin, end = (side - extent) // 2, (side + extent) // 2
    visible[..., begin:end, begin:end] = level / 127.5 - 1
    inside = (slice(begin + 2, end - 2), slice(begin + 2, end - 2))
    picture = rule(infrared, visible)
    assert energy(picture, inside) >= 0.8 * energy(infrared, inside)
    # It stays what is bright.
    assert float(picture[..., inside[0], inside[1]].mean() + 1) * 127.5 >= level - 30


def test_bone_of_the_ct_lies_around_the_soft_tissue_of_the_mri(rule):
    ct, mri = flat(0), flat(0)
    ct[..., 8:56, 8:56] = 1.0
    ct[..., 12:52, 12:52] = -1.0
    mri[..., 12:52, 12:52] = (flat(110) + texture(15))[..., 12:52, 12:52]
    picture = rule(ct, mri)
    assert float(picture[..., 9:11, 16:48].mean()) > 0.8
    inside = (slice(18, 46), slice(18, 46))
    assert energy(picture, inside) >= 0.8 * energy(mri, inside)


def test_an_empty_background_stays_dark(rule):
    first, second = flat(0), flat(2)
    first[..., 20:40, 20:40] = 1.0
    second[..., 24:44, 24:44] = 0.2
    background = rule(first, second)[..., :16, :16]
    assert float(background.max() - torch.maximum(first, second)[..., :16, :16].max()) <= LEVEL


@pytest.mark.parametrize("opposite", [False, True])
def test_edges_do_not_overshoot(rule, opposite):
    first, second = flat(80), flat(100)
    first[..., 32:] = 180 / 127.5 - 1
    second[..., 32:] = (60 if opposite else 160) / 127.5 - 1
    picture = rule(first, second)
    lower, upper = torch.minimum(first, second), torch.maximum(first, second)
    assert float((picture - upper).max()) <= 3 * LEVEL
    assert float((lower - picture).max()) <= 3 * LEVEL


def test_an_edge_gets_no_halo(rule):
    """The side that one source shows brighter beside the edge stays even up to it."""
    first, second = flat(60), flat(120)
    first[..., 32:] = 200 / 127.5 - 1
    dark_side = rule(first, second)[0, 0, 8:-8, 4:31]
    assert float(dark_side.mean(dim=0).max() - dark_side.mean(dim=0).min()) <= 3 * LEVEL


def lamp(soft: bool) -> Tensor:
    """A dark street with a lamp in its middle, 6 pixels wide."""
    visible = flat(40)
    if not soft:
        visible[..., 29:35, 29:35] = 1.0
        return visible
    along = torch.arange(SIDE) - SIDE / 2
    distance = torch.hypot(along[:, None], along[None])
    return (40 + 190 * torch.exp(-((distance / 6) ** 2)))[None, None] / 127.5 - 1


@pytest.mark.parametrize("soft", [False, True])
def test_a_lamp_before_a_warm_background_gets_no_dark_halo(rule, soft):
    infrared, visible = flat(130), lamp(soft)
    picture = rule(infrared, visible)
    assert darkening(picture, visible < infrared) <= 3
    brighter = torch.maximum(infrared, visible)[..., 31:33, 31:33].mean()
    assert float(picture[..., 31:33, 31:33].mean()) >= float(brighter) - 3 * LEVEL


def test_a_warm_pole_before_a_white_sky_that_shows_it_dark_gets_no_halo(rule):
    infrared, visible = flat(70), flat(243)
    infrared[..., 30:35] = 215 / 127.5 - 1
    visible[..., 30:35] = 170 / 127.5 - 1
    picture = rule(infrared, visible)
    assert darkening(picture, visible == visible.max()) <= 3


@pytest.mark.parametrize("smooth", [False, True])
def test_noise_of_one_source_does_not_grow(rule, smooth):
    noisy, clean = flat(100) + (texture(6) if smooth else noise(6)), flat(140)
    clean[..., 32:] = 200 / 127.5 - 1
    picture = rule(noisy, clean)
    for part in ((slice(8, -8), slice(6, 26)), (slice(8, -8), slice(38, 58))):
        assert energy(picture, part) <= energy(noisy, part)


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


def test_a_penalty_of_zero_would_not_hold_the_splitting_together():
    with pytest.raises(ValueError, match="penalty must be above 0"):
        AdaptiveRectifier(penalty=0)
