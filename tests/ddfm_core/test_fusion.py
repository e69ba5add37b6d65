"""`fuse()`: shapes, sizes, colour, keys, batches and what it refuses."""

import math
import re
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import ddfm_core
from ddfm_core.ablations import FixedBalanceRectifier, rectify_alone
from ddfm_core.adaptive import AdaptiveRectifier, AdaptiveState
from ddfm_core.baselines import Baseline, fuse_baseline
from ddfm_core.colour import luma, to_ycbcr
from ddfm_core.default_steps import ADAPTIVE_START, ADAPTIVE_STEPS, STEPS
from ddfm_core.denoiser import Denoiser, DenoiserConfig
from ddfm_core.fusion import MULTIPLE_ALONE, FusionConfig, Mode, Output, extend, finish, fuse
from ddfm_core.priors import CallablePrior, DenoiserPrior
from ddfm_core.rectify import PaperRectifier, RectifierState, ReleasedRectifier
from ddfm_core.sampler import Guidance, sample
from ddfm_core.schedule import cosine_schedule, linear_schedule, respaced_timesteps

MODES: list[Mode] = ["adaptive", "paper", "released"]
FAST = FusionConfig(steps=4)
SCHEDULE = linear_schedule()


def smoothing_prior(channels: int = 1, multiple: int = 1) -> CallablePrior:
    """A denoiser that looks at its surroundings: a box mean of x_t, shrunk as a Gaussian prior would."""

    def predict(x_t: Tensor, timestep: int) -> Tensor:
        assert not any(side % multiple for side in x_t.shape[-2:])
        alpha_bar = float(SCHEDULE.alphas_cumprod[timestep])
        blurred = F.avg_pool2d(F.pad(x_t, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
        mean = alpha_bar * x_t + (1 - alpha_bar) * blurred
        return torch.tanh(math.sqrt(alpha_bar) / (alpha_bar + 4 * (1 - alpha_bar)) * mean)

    return CallablePrior(predict, SCHEDULE, channels, multiple)


def random(*shape: int, seed: int = 0, span: float = 0.9) -> Tensor:
    return span * (torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1)


def levels(image: Tensor) -> np.ndarray[Any, np.dtype[np.int64]]:
    """8-bit grey levels."""
    return ((image.clamp(-1, 1) + 1) * 127.5).round().numpy().astype(np.int64)


# Sizes


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(16, 16), (16, 17), (17, 33), (31, 20), (40, 64)])
def test_any_size_from_16_up(size: tuple[int, int], mode: Mode) -> None:
    first, second = random(2, 1, *size, seed=1), random(2, 1, *size, seed=2)
    result = fuse(first, second, smoothing_prior(multiple=32), FusionConfig(mode=mode, steps=3))
    assert result.image.shape == result.luma.shape == (2, 1, *size)
    assert result.image.dtype == torch.float32
    assert result.image.isfinite().all()
    assert result.image.abs().max() <= 1


@pytest.mark.parametrize("size", [(15, 16), (16, 15), (1, 200)])
def test_smaller_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="at least 16 pixels"):
        fuse(random(1, 1, *size), random(1, 1, *size), smoothing_prior(), FAST)


def test_extension_reflects_as_often_as_it_takes() -> None:
    image = random(2, 3, 17, 5)
    extended = extend(image, 32)
    assert extended.shape == (2, 3, 32, 32)
    wanted = np.pad(image.numpy(), ((0, 0), (0, 0), (0, 15), (0, 27)), mode="reflect")
    np.testing.assert_array_equal(extended, wanted)
    assert extend(image, 1) is image


def test_extension_does_not_move_the_picture() -> None:
    """A prior that works per pixel gives nearly the same picture in any frame: same noise, other statistics."""
    first, second = random(1, 1, 24, 24, seed=1), random(1, 1, 24, 24, seed=2)
    x_T = random(1, 1, 24, 24, seed=3)

    def pixelwise(x_t: Tensor, timestep: int) -> Tensor:
        return 0.05 * x_t

    plain, framed = (
        fuse(first, second, CallablePrior(pixelwise, SCHEDULE, 1, multiple), FAST, x_T=x_T).luma for multiple in (1, 32)
    )
    assert (plain - framed).abs().mean() < 0.02


# Batches, keys and noise


@pytest.fixture(scope="module")
def small_network() -> DenoiserPrior:
    torch.manual_seed(0)
    network = Denoiser(DenoiserConfig(widths=(16, 24), blocks=1, embedding=16))
    torch.nn.init.normal_(network.head.weight, std=0.1)
    return DenoiserPrior(network, SCHEDULE)


@pytest.mark.parametrize(
    ("mode", "eta", "kind"),
    [
        *((mode, eta, "function") for mode in MODES for eta in (0.0, 1.0)),
        *((mode, 0.0, "network") for mode in MODES),
    ],
)
def test_batch_equals_singles_in_any_order(mode: Mode, eta: float, kind: str, small_network: DenoiserPrior) -> None:
    prior = smoothing_prior(multiple=8) if kind == "function" else small_network
    first, second = random(3, 1, 20, 27, seed=1), random(3, 3, 20, 27, seed=2)
    second[1] = second[1, :1]  # one grey member
    config = FusionConfig(mode=mode, steps=5, eta=eta)
    order = [2, 0, 1]
    together = fuse(first, second, prior, config)
    shuffled = fuse(first[order], second[order], prior, config)
    for b in range(3):
        alone = fuse(first[b : b + 1], second[b : b + 1], prior, config)
        for batch, member in ((together, b), (shuffled, order.index(b))):
            torch.testing.assert_close(batch.image[member], alone.image[0], rtol=0, atol=1e-5)
            torch.testing.assert_close(batch.luma[member], alone.luma[0], rtol=0, atol=1e-5)
            assert abs(levels(batch.image[member]) - levels(alone.image[0])).max() <= 1


def test_same_arguments_same_bytes_and_other_seeds_other_pictures() -> None:
    first, second = random(1, 1, 16, 16, seed=1), random(1, 1, 16, 16, seed=2)
    pictures = [fuse(first, second, smoothing_prior(), FusionConfig(steps=4, seed=s)).image for s in (0, 0, 1)]
    assert torch.equal(pictures[0], pictures[1])
    assert not torch.equal(pictures[0], pictures[2])


def test_keys_choose_the_noise() -> None:
    first, second = random(1, 1, 16, 16, seed=1), random(1, 1, 16, 16, seed=2)
    pair = (first.repeat(2, 1, 1, 1), second.repeat(2, 1, 1, 1))
    same, other = (fuse(*pair, smoothing_prior(), FAST, keys=keys).image for keys in ((b"a", b"a"), (b"a", b"b")))
    torch.testing.assert_close(same[0], same[1], rtol=0, atol=1e-6)
    torch.testing.assert_close(other[0], same[0], rtol=0, atol=1e-6)
    assert not torch.allclose(other[1], other[0], atol=1e-3)
    with pytest.raises(ValueError, match="one entry for each of 2 pairs, got 1"):
        fuse(*pair, smoothing_prior(), FAST, keys=[b"a"])


def test_a_given_start_replaces_the_noise() -> None:
    first, second = random(1, 1, 20, 24, seed=1), random(1, 1, 20, 24, seed=2)
    prior, x_T = smoothing_prior(multiple=32), random(1, 1, 20, 24, seed=3)
    plain, extended, other_seed = (
        fuse(first, second, prior, FusionConfig(steps=4, seed=seed), x_T=start).image
        for seed, start in ((0, x_T), (0, extend(x_T, 32)), (1, x_T))
    )
    assert torch.equal(plain, extended)
    assert torch.equal(plain, other_seed)
    assert not torch.equal(plain, fuse(first, second, prior, FAST).image)
    with pytest.raises(ValueError, match=r"x_T must be \(1, 1, 20, 24\) or \(1, 1, 32, 32\)"):
        fuse(first, second, prior, FAST, x_T=random(1, 3, 20, 24))


# Colour


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("channels", [1, 3])
def test_channels_of_the_result(mode: Mode, channels: int) -> None:
    """Grey in gives grey out, in as many channels as the richer source has; the prior's channels do not matter."""
    config, prior = FusionConfig(mode=mode, steps=4), smoothing_prior(channels)
    grey_a, grey_b = random(1, 1, 16, 18, seed=1), random(1, 1, 16, 18, seed=2)
    plain = fuse(grey_a, grey_b, prior, config)
    assert plain.image.shape[1] == 1
    assert torch.equal(plain.image, plain.luma)
    rgb_a, rgb_b = grey_a.expand(-1, 3, -1, -1), grey_b.expand(-1, 3, -1, -1)
    for sources in ((rgb_a, grey_b), (grey_a, rgb_b), (rgb_a, rgb_b)):
        assert torch.equal(fuse(*sources, prior, config).image, plain.image.expand(-1, 3, -1, -1))


def test_chroma_of_the_coloured_source() -> None:
    colour_a, colour_b = random(1, 3, 16, 16, seed=1, span=0.3), random(1, 3, 16, 16, seed=2, span=0.3)
    grey = random(1, 1, 16, 16, seed=3, span=0.3)
    for sources, chroma in (
        ((colour_a, grey), colour_a),
        ((grey, colour_b), colour_b),
        ((colour_a, colour_b), colour_b),
    ):
        result = fuse(*sources, smoothing_prior(), FAST)
        assert result.image.shape == (1, 3, 16, 16)
        torch.testing.assert_close(luma(result.image), result.luma, rtol=0, atol=1e-6)
        torch.testing.assert_close(to_ycbcr(result.image)[:, 1:], to_ycbcr(chroma)[:, 1:], rtol=0, atol=1e-6)


def test_strong_colour_is_clipped_and_its_share_told() -> None:
    first, half_red = torch.full((2, 1, 16, 16), 0.9), torch.full((2, 3, 16, 16), -1.0)
    half_red[0, 0, :4] = 1
    result = fuse(first, half_red, smoothing_prior(), FusionConfig(mode="max"))
    assert result.image.abs().max() == 1
    # The other pair is grey, and grey never leaves the range; what is clipped there by the output rule is not colour.
    assert result.out_of_gamut.tolist() == [0.25, 0]
    raw = fuse(first, half_red, smoothing_prior(), FusionConfig(mode="max", output="none"))
    assert raw.image.max() > 1
    assert raw.out_of_gamut.tolist() == [0.25, 0]


# The output rules


@pytest.mark.parametrize("mode", MODES)
def test_output_rules(mode: Mode) -> None:
    first, second = random(2, 1, 16, 16, seed=1, span=1), random(2, 1, 16, 16, seed=2, span=1)
    second[1] *= 0.1
    raw, clipped, stretched = (
        fuse(first, second, smoothing_prior(), FusionConfig(mode=mode, steps=4, output=rule))
        for rule in ("none", "clip", "stretch")
    )
    for b in range(2):
        low, high = raw.luma[b].min(), raw.luma[b].max()
        torch.testing.assert_close(stretched.luma[b], 2 * (raw.luma[b] - low) / (high - low) - 1)
        assert (stretched.luma[b].min().item(), stretched.luma[b].max().item()) == pytest.approx((-1, 1))
    assert torch.equal(clipped.luma, raw.luma.clamp(-1, 1))
    default = fuse(first, second, smoothing_prior(), FusionConfig(mode=mode, steps=4))
    assert torch.equal(default.image, (stretched if mode == "released" else clipped).image)


def test_finish() -> None:
    fused = torch.tensor([[-3.0, 0.0, 1.0], [0.5, 0.5, 0.5], [4.0, 4.0, 4.0]]).view(3, 1, 1, 3)
    assert finish(fused, "none") is fused
    assert finish(fused, "clip")[:, 0, 0].tolist() == [[-1, 0, 1], [0.5] * 3, [1] * 3]
    assert finish(fused, "stretch")[:, 0, 0].tolist() == [[-1, 0.5, 1], [0.5] * 3, [1] * 3]


def test_no_output_rule_leaves_values_outside() -> None:
    first, second = (random(1, 1, 16, 16, seed=seed) for seed in (1, 2))
    # The released rule's penalty term lets a strong one leave the hull of the sources.
    config = FusionConfig(mode="released", steps=4, penalty=50.0, tv_weight=0.0, output="none")
    result = fuse(first.sign(), second.sign(), smoothing_prior(), config)
    assert result.luma.abs().max() > 1
    assert torch.equal(result.image, result.luma)


# Without noise: baselines and the rectification alone


def untouchable_prior(multiple: int = 64) -> CallablePrior:
    """A prior that must not be asked, with a schedule shorter than the steps and a multiple that would show."""

    def predict(x_t: Tensor, timestep: int) -> Tensor:
        raise AssertionError("the prior was asked")

    return CallablePrior(predict, linear_schedule(21), 1, multiple)


@pytest.mark.parametrize("mode", get_args(Baseline))
def test_baselines_are_served_without_the_prior(mode: Mode) -> None:
    first, second = random(2, 1, 20, 17, seed=1), random(2, 3, 20, 17, seed=2, span=0.3)
    result = fuse(first, second, untouchable_prior(), FusionConfig(mode=mode))
    assert torch.equal(result.luma, fuse_baseline(mode, first, luma(second)).clamp(-1, 1))  # type: ignore[arg-type]
    assert result.std is None
    others = FusionConfig(mode=mode, steps=3, seed=9, eta=1, tv_weight=0)
    assert torch.equal(fuse(first, second, untouchable_prior(), others).image, result.image)
    stretched = fuse(first, second, untouchable_prior(), FusionConfig(mode=mode, output="stretch")).luma
    assert (stretched.min().item(), stretched.max().item()) == pytest.approx((-1, 1))


def extended_and_rectified(config: FusionConfig, first: Tensor, second: Tensor, multiple: int) -> Tensor:
    """What the rule alone makes of sources that are extended to multiples of a number."""
    height, width = first.shape[2:]
    guidance = Guidance(config.rectifier(), extend(first, multiple), extend(second, multiple), (height, width))
    return rectify_alone(guidance, config.num_steps)[..., :height, :width]


@pytest.mark.parametrize(
    "config",
    [
        FusionConfig(steps=25),
        FusionConfig(mode="paper", steps=25),
        FusionConfig(mode="paper", steps=25, phi=1.0),
        FusionConfig(mode="released", steps=25),
    ],
)
def test_without_a_prior_the_rectification_works_alone(config: FusionConfig) -> None:
    first, second = random(2, 1, 20, 17, seed=1), random(2, 1, 20, 17, seed=2)
    alone = replace(config, use_prior=False, output="clip")
    result = fuse(first, second, untouchable_prior(), alone)
    wanted = extended_and_rectified(alone, first, second, MULTIPLE_ALONE).clamp(-1, 1)
    assert torch.equal(result.luma, wanted)
    assert torch.equal(fuse(first, second, untouchable_prior(), replace(alone, seed=5)).luma, wanted)


@pytest.mark.parametrize("turned", [False, True])
def test_how_far_a_prior_has_the_sources_extended_does_not_matter(turned: bool) -> None:
    first, second = 0.1 * random(1, 1, 48, 64, seed=1), 0.1 * random(1, 1, 48, 64, seed=2)
    first[..., :24, :] -= 0.5
    first[..., 24:, :] += 0.6
    if turned:
        first, second = first.flip(2, 3), second.flip(2, 3)
    near, far = (extended_and_rectified(FusionConfig(), first, second, multiple) for multiple in (16, 32))
    # Only what lies at the edge itself may see what follows.
    torch.testing.assert_close(near, far, rtol=0, atol=6 / 255)
    assert (near - far).abs().mean() < 1 / 255


def test_a_fixed_balance_changes_the_rule_of_mode_paper() -> None:
    first, second = random(1, 1, 20, 20, seed=1), random(1, 1, 20, 20, seed=2)
    prior = smoothing_prior()
    near = fuse(first, second, prior, FusionConfig(mode="paper", steps=3, phi=0.1, tv_weight=0)).luma
    torch.testing.assert_close(near, first, rtol=0, atol=0.05)
    far = fuse(first, second, prior, FusionConfig(mode="paper", steps=3, phi=10.0, tv_weight=0)).luma
    torch.testing.assert_close(far, second, rtol=0, atol=0.05)
    balanced = FusionConfig(mode="paper", phi=2.0)
    assert balanced.rectifier() == FixedBalanceRectifier(2.0, penalty=10.0, tv_weight=0.5)
    assert replace(balanced, penalty=3.0).rectifier() == FixedBalanceRectifier(2.0, penalty=3.0, tv_weight=0.5)


# Several samples


def test_one_sample_is_the_first_of_many_and_their_mean_and_deviation_are_given() -> None:
    first, second = random(2, 1, 16, 20, seed=1), random(2, 1, 16, 20, seed=2)
    prior, keys = smoothing_prior(), [b"a", b"b"]
    # In mode paper, where much is left to the noise, as in the next test.
    config = FusionConfig(mode="paper", steps=3, eta=1.0, output="stretch")
    means = {n: fuse(first, second, prior, replace(config, samples=n), keys) for n in (1, 2, 3)}
    plain = fuse(first, second, prior, config, keys)
    assert torch.equal(means[1].image, plain.image)
    assert means[1].std is None
    # From the running means: n mean_n - (n - 1) mean_(n - 1) is the n-th picture.
    drawn = [plain.luma, 2 * means[2].luma - plain.luma, 3 * means[3].luma - 2 * means[2].luma]
    for one in drawn:
        assert (one.amin().item(), one.amax().item()) == pytest.approx((-1, 1), abs=1e-5)
    assert (drawn[1] - drawn[0]).abs().mean() > 0.01
    assert (drawn[2] - drawn[1]).abs().mean() > 0.01
    std = means[3].std
    assert std is not None
    torch.testing.assert_close(std, torch.stack(drawn).std(dim=0), rtol=0, atol=1e-5)
    assert torch.equal(means[3].image, means[3].luma)


def test_samples_of_a_pair_do_not_depend_on_its_batch() -> None:
    first, second = random(3, 1, 16, 16, seed=1), random(3, 1, 16, 16, seed=2)
    config = FusionConfig(steps=3, samples=3)
    batch = fuse(first, second, smoothing_prior(), config)
    alone = fuse(first[1:2], second[1:2], smoothing_prior(), config)
    torch.testing.assert_close(batch.luma[1:2], alone.luma, rtol=0, atol=1e-5)
    assert batch.std is not None
    assert alone.std is not None
    torch.testing.assert_close(batch.std[1:2], alone.std, rtol=0, atol=1e-5)


def test_samples_differ_where_the_sources_do() -> None:
    first = random(1, 1, 32, 32, seed=1, span=0.5)
    second = first.clone()
    second[..., 16:] = -second[..., 16:]
    std = fuse(first, second, smoothing_prior(), FusionConfig(mode="paper", steps=6, samples=5)).std
    assert std is not None
    assert std[..., 18:30].mean() > 3 * std[..., 2:14].mean()


def test_a_callback_sees_one_sample_and_a_given_start_allows_one() -> None:
    first, second = random(1, 1, 16, 16, seed=1), random(1, 1, 16, 16, seed=2)
    seen: list[int] = []
    config = FusionConfig(steps=2, samples=3)
    fuse(first, second, smoothing_prior(), config, callback=lambda timestep, *_: seen.append(timestep))
    assert seen == [ADAPTIVE_START, 0]
    with pytest.raises(ValueError, match="samples is 3, but with a given x_T"):
        fuse(first, second, smoothing_prior(), config, x_T=random(1, 1, 16, 16))


# What it is given and what it gives back


def test_the_result_is_an_ordinary_tensor() -> None:
    result = fuse(random(1, 1, 16, 16), random(1, 1, 16, 16, seed=1), smoothing_prior(), FAST)
    assert not result.image.is_inference()
    assert not result.luma.is_inference()
    assert not result.image.requires_grad
    result.image.mul_(2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_floating_types_are_taken(dtype: torch.dtype) -> None:
    first, second = (random(1, 1, 16, 16, seed=seed).to(dtype) for seed in (1, 2))
    assert torch.equal(
        fuse(first, second, smoothing_prior(), FAST).image,
        fuse(first.float(), second.float(), smoothing_prior(), FAST).image,
    )


def test_callback_and_configuration_reach_the_loop() -> None:
    first, second = random(1, 1, 20, 20, seed=1), random(1, 1, 20, 20, seed=2)
    seen: list[tuple[int, tuple[int, ...]]] = []

    def look(timestep: int, x_t: Tensor, x0_pred: Tensor, x0_rectified: Tensor, state: RectifierState | None) -> None:
        assert state is not None
        seen.append((timestep, tuple(x_t.shape)))

    config = FusionConfig(mode="paper", steps=3)
    fuse(first, second, smoothing_prior(multiple=16), config, callback=look)
    assert seen == [(999, (1, 1, 32, 32)), (500, (1, 1, 32, 32)), (0, (1, 1, 32, 32))]


def test_posterior_update_is_ddim_at_eta_1() -> None:
    first, second = random(1, 1, 16, 16, seed=1), random(1, 1, 16, 16, seed=2)
    posterior, ddim = (
        fuse(first, second, smoothing_prior(), config).image
        for config in (FusionConfig(steps=5, update="posterior"), FusionConfig(steps=5, eta=1.0))
    )
    torch.testing.assert_close(posterior, ddim, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (torch.zeros(1, 2, 16, 16), torch.zeros(1, 1, 16, 16), r"first must be .* got torch.float32 \[1, 2, 16, 16\]"),
        (torch.zeros(1, 1, 16, 16), torch.zeros(16, 16), "second must be"),
        (torch.zeros(0, 1, 16, 16), torch.zeros(0, 1, 16, 16), "first must be"),
        (torch.zeros(1, 1, 16, 16, dtype=torch.uint8), torch.zeros(1, 1, 16, 16), "floating point"),
        (torch.zeros(1, 1, 16, 16), torch.zeros(2, 1, 16, 16), r"agree in B, H and W, got \[1, 1, 16, 16\] and \[2"),
        (torch.zeros(1, 1, 16, 16), torch.zeros(1, 1, 16, 17), "agree in B, H and W"),
        (torch.zeros(1, 1, 16, 16), torch.full((1, 1, 16, 16), 255.0), r"second must lie in \[-1, 1\]"),
        (torch.full((1, 1, 16, 16), math.nan), torch.zeros(1, 1, 16, 16), r"first must lie in \[-1, 1\]"),
    ],
)
def test_sources_that_do_not_fit_are_refused(first: Tensor, second: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fuse(first, second, smoothing_prior(), FAST)


def test_more_steps_than_timesteps_are_refused() -> None:
    prior = CallablePrior(lambda x_t, _: x_t, linear_schedule(50), 1)
    with pytest.raises(ValueError, match="steps is 51, but the prior's schedule has 50"):
        fuse(random(1, 1, 16, 16), random(1, 1, 16, 16), prior, FusionConfig(steps=51))


# The configuration


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("mode", "printed"), ("mode", None), ("steps", 0), ("steps", 2.5), ("steps", True), ("update", "ddpm"),
        ("eta", -0.1), ("eta", 1.1), ("eta", math.nan), ("eta", "0"), ("tv_weight", -1), ("tv_weight", math.inf),
        ("penalty", -0.1), ("penalty", "0.1"), ("output", "minmax"), ("seed", 1.0), ("seed", None), ("samples", 0),
        ("samples", 1.5), ("phi", -1), ("phi", "1"), ("use_prior", 0), ("use_prior", None),
    ],
)  # fmt: skip
def test_configuration_names_what_is_wrong(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{field} is {value!r}; it must be ") as caught:
        FusionConfig(**{field: value})
    assert str(caught.value).count("\n") == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "mean", "samples": 2}, "samples is 2; it must be 1 with mode 'mean', which draws nothing"),
        ({"use_prior": False, "samples": 2}, "samples is 2; it must be 1 with use_prior False, which draws nothing"),
        ({"mode": "max", "use_prior": False}, "use_prior is False; it must be True in mode 'max'"),
        ({"mode": "released", "phi": 1.0}, "phi is 1.0; it must be None in mode 'released'; it belongs to 'paper'"),
        ({"phi": 1.0}, "phi is 1.0; it must be None in mode 'adaptive'; it belongs to 'paper'"),
        ({"mode": "paper", "phi": 1.0, "penalty": 0.0}, "penalty is 0.0; it must be above 0 with phi"),
        ({"penalty": 0}, "penalty is 0; it must be above 0 in mode 'adaptive'"),
        ({"penalty": 0.0, "use_prior": False}, "penalty is 0.0; it must be above 0 in mode 'adaptive'"),
        (
            {"steps": ADAPTIVE_START + 2},
            f"steps is {ADAPTIVE_START + 2}; it must be {ADAPTIVE_START + 1} or less from timestep {ADAPTIVE_START}, "
            "where mode 'adaptive' begins; give a later start for more",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        FusionConfig(**settings)


def test_eta_belongs_to_ddim() -> None:
    with pytest.raises(ValueError, match=r"eta is 0.5; it must be 0 with update 'posterior'"):
        FusionConfig(update="posterior", eta=0.5)


@pytest.mark.parametrize("output", ["clip", "stretch", "none"])
def test_defaults_depend_on_the_mode(output: Output) -> None:
    assert FusionConfig().rectifier() == AdaptiveRectifier(penalty=0.3)
    assert FusionConfig(penalty=0.1).rectifier() == AdaptiveRectifier(penalty=0.1)
    assert FusionConfig(mode="paper").rectifier() == PaperRectifier(penalty=0.1, tv_weight=0.5)
    assert FusionConfig(mode="released").rectifier() == ReleasedRectifier(penalty=0.001, tv_weight=0.5)
    strict = FusionConfig(mode="paper", penalty=0.0, tv_weight=2)
    assert strict.rectifier() == PaperRectifier(penalty=0.0, tv_weight=2)
    assert FusionConfig().output_rule() == FusionConfig(mode="paper").output_rule() == "clip"
    assert FusionConfig(mode="released").output_rule() == "stretch"
    assert FusionConfig(mode="released", output=output).output_rule() == output


@pytest.mark.parametrize(
    ("settings", "changes"),
    [
        ({}, {"tv_weight": 2.0}),
        ({"use_prior": False}, {"tv_weight": 2.0, "eta": 0.5, "seed": 1}),
        ({"mode": "paper", "use_prior": False}, {"update": "posterior", "seed": 1}),
        ({"mode": "laplacian"}, {"steps": 9, "penalty": 2.0, "tv_weight": 2.0, "seed": 1}),
    ],
)
def test_fields_without_effect_leave_the_picture_as_it_is(settings: dict[str, Any], changes: dict[str, Any]) -> None:
    first, second = random(1, 1, 16, 16, seed=1), random(1, 1, 16, 16, seed=2)
    config = FusionConfig(**{"steps": 2} | settings)
    assert config.without_effect >= changes.keys()
    plain, changed = (fuse(first, second, smoothing_prior(), one).image for one in (config, replace(config, **changes)))
    assert torch.equal(plain, changed)


def test_every_field_of_the_papers_rule_has_an_effect() -> None:
    assert FusionConfig(mode="paper").without_effect == FusionConfig(mode="released").without_effect == frozenset()


def test_steps_and_start_are_those_of_the_mode_unless_told() -> None:
    def asked(**settings: Any) -> tuple[int, int | None]:
        config = FusionConfig(**settings)
        return config.num_steps, config.start_timestep

    assert asked() == asked(mode="adaptive") == (ADAPTIVE_STEPS, ADAPTIVE_START)
    assert asked(mode="paper") == asked(mode="released") == (STEPS, None)
    assert asked(steps=4) == (4, ADAPTIVE_START)
    assert asked(start=999) == (ADAPTIVE_STEPS, 999)
    assert asked(steps=500, start=999) == (500, 999)
    assert asked(mode="paper", steps=4) == (4, None)
    assert asked(mode="paper", start=300) == (STEPS, 300)
    # What draws nothing has no start, also when it is made of a configuration that has one.
    assert replace(FusionConfig(), use_prior=False).start_timestep is None
    assert asked(mode="max")[1] is None


def test_the_default_is_what_it_says_written_out() -> None:
    first, second = random(1, 1, 16, 16, seed=1), random(1, 1, 16, 16, seed=2)
    seen: list[int] = []
    written = FusionConfig(mode="adaptive", steps=ADAPTIVE_STEPS, start=ADAPTIVE_START)
    default = fuse(first, second, smoothing_prior(), callback=lambda timestep, *_: seen.append(timestep))
    assert torch.equal(default.image, fuse(first, second, smoothing_prior(), written).image)
    assert (len(seen), seen[0], seen[-1]) == (ADAPTIVE_STEPS, ADAPTIVE_START, 0)


def test_the_package_exports_its_names() -> None:
    assert ddfm_core.fuse is fuse
    assert ddfm_core.FusionConfig is FusionConfig
    assert set(ddfm_core.__all__) <= set(dir(ddfm_core))
    for name in ddfm_core.__all__:
        assert getattr(ddfm_core, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'fusion_of'"):
        _ = ddfm_core.fusion_of


def test_a_start_between_begins_there_with_the_rules_own_picture_in_noise():
    first, second = (torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(seed)) * 2 - 1 for seed in (1, 2))
    seen: list[tuple[int, torch.Tensor]] = []

    def look(timestep, x_t, *_):
        seen.append((timestep, x_t))

    prior = smoothing_prior()
    config = FusionConfig(mode="adaptive", steps=4, start=300)
    result = fuse(first, second, prior, config, callback=look)
    assert [timestep for timestep, _ in seen] == [300, 200, 100, 0]
    own = fuse(first, second, prior, FusionConfig(mode="adaptive", steps=1, use_prior=False)).luma
    alpha_bar = float(prior.schedule.alphas_cumprod[300])
    noise = (seen[0][1] - alpha_bar**0.5 * own) / (1 - alpha_bar) ** 0.5
    assert float(noise.mean()) == pytest.approx(0, abs=0.1)
    assert float(noise.std()) == pytest.approx(1, abs=0.1)
    assert result.image.shape == first.shape


def test_a_rule_begins_once_for_all_samples_and_its_own_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = random(1, 1, 16, 16, seed=1), random(1, 1, 16, 16, seed=2)
    prior, config, x_T = smoothing_prior(), FusionConfig(steps=3), random(1, 1, 16, 16, seed=3)

    def fresh() -> Guidance:
        return Guidance(config.rectifier(), first, second)

    alpha_bar = float(prior.schedule.alphas_cumprod[ADAPTIVE_START])
    x_t = math.sqrt(alpha_bar) * rectify_alone(fresh(), 1) + math.sqrt(1 - alpha_bar) * x_T
    apart = sample(prior, x_t, respaced_timesteps(3, ADAPTIVE_START + 1), fresh())
    assert torch.equal(fuse(first, second, prior, config, x_T=x_T).luma, apart.clamp(-1, 1))

    begun: list[int] = []
    start = AdaptiveRectifier.start

    def counted(
        rule: AdaptiveRectifier, first: Tensor, second: Tensor, size: tuple[int, int] | None = None
    ) -> AdaptiveState:
        begun.append(len(first))
        return start(rule, first, second, size)

    monkeypatch.setattr(AdaptiveRectifier, "start", counted)
    fuse(first, second, prior, replace(config, samples=3))
    assert begun == [1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 10, "start": 8}, "start is 8; it must be None or an integer of steps - 1 = 9 or more"),
        ({"mode": "mean", "start": 300}, "start is 300; it must be None with mode 'mean'"),
        ({"use_prior": False, "start": 300}, "start is 300; it must be None with use_prior False"),
    ],
)
def test_a_start_that_does_not_fit_is_refused(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        FusionConfig(**({"steps": 10} | settings))


def test_a_start_beyond_the_schedule_is_refused():
    with pytest.raises(ValueError, match="start is 5000"):
        fuse(torch.zeros(1, 1, 16, 16), torch.zeros(1, 1, 16, 16), smoothing_prior(), FusionConfig(steps=3, start=5000))


@pytest.mark.parametrize(
    ("schedule", "alike"), [(linear_schedule(100), 29), (cosine_schedule(), 564), (cosine_schedule(50), 27)]
)
def test_the_start_by_default_is_an_amount_of_noise(schedule, alike):
    prior = CallablePrior(lambda x_t, _: x_t, schedule, 1)
    first, second = random(1, 1, 16, 16, seed=1), random(1, 1, 16, 16, seed=2)
    with pytest.raises(ValueError, match=rf"as much noise at timestep {alike}: give start={alike}$"):
        fuse(first, second, prior)
    assert schedule.sigmas[alike] == pytest.approx(linear_schedule().sigmas[ADAPTIVE_START], rel=0.07)
    seen: list[int] = []
    fuse(first, second, prior, FusionConfig(start=alike), callback=lambda timestep, *_: seen.append(timestep))
    assert seen[0] == alike
    # What has no noise does not mind.
    fuse(first, second, prior, FusionConfig(use_prior=False))


def test_a_picture_without_a_prior_does_not_depend_on_one():
    first, second = random(1, 1, 50, 44, seed=1), random(1, 1, 50, 44, seed=2)
    alone = FusionConfig(use_prior=False)
    pictures = [fuse(first, second, untouchable_prior(multiple), alone).image for multiple in (1, 8, 32, 64)]
    assert all(torch.equal(picture, pictures[0]) for picture in pictures)
