"""`fuse()`: two registered pictures of one scene into one, the public entry of the core."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from ddfm_core.ablations import FixedBalanceRectifier, rectify_alone
from ddfm_core.adaptive import AdaptiveRectifier
from ddfm_core.baselines import Baseline, fuse_baseline, is_baseline
from ddfm_core.colour import into_gamut, luma, recolour
from ddfm_core.default_steps import ADAPTIVE_START, ADAPTIVE_STEPS, STEPS
from ddfm_core.moments import RunningMoments
from ddfm_core.noise import batch_noise, content_keys
from ddfm_core.priors import Prior
from ddfm_core.rectify import PaperRectifier, Rectifier, ReleasedRectifier
from ddfm_core.sampler import Callback, Guidance, Update, sample
from ddfm_core.schedule import Schedule, linear_schedule, respaced_timesteps

# Changes when, and only when, the same inputs give other pixels than before.
ALGORITHM_VERSION: int = 4

SMALLEST_SIDE = 16

# What sides are extended to multiples of where no network asks for it, so that the picture does not depend on one.
MULTIPLE_ALONE = 32

# Two noise to signal ratios are the same where their logarithms differ by less.
SAME_NOISE = 0.02

# What leaves [-1, 1] by less is rounding: an eighth of a grey level of 255.
GAMUT_TOLERANCE = 1e-3

Mode = Literal["adaptive", "paper", "released", Baseline]
Output = Literal["clip", "stretch", "none"]


@dataclass(frozen=True)
class FusionConfig:
    """How :func:`fuse` works. A value outside what is allowed raises ``ValueError``.

    Attributes:
        mode: the rectification, `adaptive` (:mod:`ddfm_core.adaptive`, which does without ``tv_weight`` and ``phi``),
            `paper` (its equations) or `released` (what its published code computes); or one of the classical rules of
            :mod:`ddfm_core.baselines`, `mean`, `max`, `laplacian`, `gradient`, which use neither the prior nor anything
            below but ``output``.
        steps: timesteps visited, out of those of the prior's schedule; None is ``ADAPTIVE_STEPS`` in mode `adaptive`
            and ``STEPS`` in all others (:mod:`ddfm_core.default_steps`).
        update: the step from x_t to x_{t-1}, `ddim` or `posterior` (:func:`~ddfm_core.sampler.step_coefficients`).
        eta: noise of a `ddim` step, 0 (none) to 1.
        tv_weight: weight of the gradient penalty, the paper's psi, 0 or more.
        penalty: the paper's eta, 0 or more; None is 0.1 in mode `paper` and 0.001 in `released`. In mode `adaptive`
            and with ``phi`` it is that of a splitting, above 0, where None is 0.3 and 10.
        phi: in mode `paper`, a fixed balance of the sources instead of the one that the EM infers, 0 or more
            (:class:`~ddfm_core.ablations.FixedBalanceRectifier`); None is the EM.
        use_prior: False leaves out diffusion and prior and repeats the rectification alone, ``steps`` times from the
            mean of the sources (:func:`~ddfm_core.ablations.rectify_alone`).
        output: what becomes of the fused luma: `clip` to [-1, 1], `stretch` each image's own minimum and maximum to
            -1 and 1, or `none`; None is `stretch` in mode `released` and `clip` in all others.
        seed: chooses the noise, together with the key of the pair.
        samples: pictures drawn, each from noise of its own, of which the result is the mean; the first is that of
            ``samples=1``. A baseline and ``use_prior=False`` draw nothing and allow 1 only.
        start: timestep at which to begin, from the rectification's own picture in that much noise (Chung et al., CVPR
            2022). None is ``ADAPTIVE_START`` in mode `adaptive`, whatever ``steps`` is, and pure noise at the last
            timestep in `paper` and `released`. That last one, 999 of a thousand, asks for the full range in any mode.
    """

    mode: Mode = "adaptive"
    steps: int | None = None
    update: Update = "ddim"
    eta: float = 0.0
    tv_weight: float = 0.5
    penalty: float | None = None
    phi: float | None = None
    use_prior: bool = True
    output: Output | None = None
    seed: int = 0
    samples: int = 1
    start: int | None = None

    def __post_init__(self) -> None:
        modes = get_args(Mode)
        _check("mode", self.mode, self.mode in modes, f"one of {', '.join(modes)}")
        steps_ok = self.steps is None or (_is_int(self.steps) and self.steps >= 1)
        _check("steps", self.steps, steps_ok, "None or an integer of 1 or more")
        _check("update", self.update, self.update in get_args(Update), f"one of {', '.join(get_args(Update))}")
        _check("eta", self.eta, _is_number(self.eta) and 0 <= self.eta <= 1, "a number from 0 to 1")
        if self.update != "ddim":
            _check("eta", self.eta, self.eta == 0, f"0 with update {self.update!r}; it belongs to 'ddim'")
        _check("tv_weight", self.tv_weight, _is_number(self.tv_weight) and self.tv_weight >= 0, "a number of 0 or more")
        penalty_ok = self.penalty is None or (_is_number(self.penalty) and self.penalty >= 0)
        _check("penalty", self.penalty, penalty_ok, "None or a number of 0 or more")
        if self.mode == "adaptive":
            _check("penalty", self.penalty, self.penalty != 0, "above 0 in mode 'adaptive'; it holds the splitting")
        phi_ok = self.phi is None or (_is_number(self.phi) and self.phi >= 0)
        _check("phi", self.phi, phi_ok, "None or a number of 0 or more")
        if self.phi is not None:
            _check("phi", self.phi, self.mode == "paper", f"None in mode {self.mode!r}; it belongs to 'paper'")
            _check("penalty", self.penalty, self.penalty != 0, "above 0 with phi; ADMM does not work without it")
        _check("use_prior", self.use_prior, isinstance(self.use_prior, bool), "True or False")
        if self.of_baseline:
            _check("use_prior", self.use_prior, self.use_prior, f"True in mode {self.mode!r}, which never uses one")
        output_ok = self.output is None or self.output in get_args(Output)
        _check("output", self.output, output_ok, f"None or one of {', '.join(get_args(Output))}")
        _check("seed", self.seed, _is_int(self.seed), "an integer")
        _check("samples", self.samples, _is_int(self.samples) and self.samples >= 1, "an integer of 1 or more")
        start_ok = self.start is None or (_is_int(self.start) and self.start >= self.num_steps - 1)
        _check("start", self.start, start_ok, f"None or an integer of steps - 1 = {self.num_steps - 1} or more")
        if self.start is None and self.start_timestep is not None:
            reason = f"timestep {self.start_timestep}, where mode {self.mode!r} begins; give a later start for more"
            most = self.start_timestep + 1
            _check("steps", self.steps, self.num_steps <= most, f"{most} or less from {reason}")
        if self.start is not None:
            reason = f"mode {self.mode!r}" if self.of_baseline else "use_prior False"
            _check("start", self.start, self.draws, f"None with {reason}, which has no noise to start from")
        if not self.draws:
            reason = f"mode {self.mode!r}" if self.of_baseline else "use_prior False"
            _check("samples", self.samples, self.samples == 1, f"1 with {reason}, which draws nothing")

    def rectifier(self) -> Rectifier[Any]:
        """The rule of ``mode`` with this configuration's weights; ``ValueError`` for a baseline, which has none."""
        _check("mode", self.mode, not self.of_baseline, "one with a rectification")
        if self.phi is not None:
            if self.penalty is None:
                return FixedBalanceRectifier(self.phi, tv_weight=self.tv_weight)
            return FixedBalanceRectifier(self.phi, self.penalty, self.tv_weight)
        if self.mode == "adaptive":
            return AdaptiveRectifier() if self.penalty is None else AdaptiveRectifier(self.penalty)
        rule = PaperRectifier if self.mode == "paper" else ReleasedRectifier
        if self.penalty is None:
            return rule(tv_weight=self.tv_weight)
        return rule(penalty=self.penalty, tv_weight=self.tv_weight)

    @property
    def num_steps(self) -> int:
        """``steps``, with None resolved."""
        if self.steps is not None:
            return self.steps
        return ADAPTIVE_STEPS if self.mode == "adaptive" else STEPS

    @property
    def start_timestep(self) -> int | None:
        """``start``, with None resolved; what is None then begins with pure noise, or draws none."""
        if self.start is None and self.mode == "adaptive" and self.draws:
            return ADAPTIVE_START
        return self.start

    def output_rule(self) -> Output:
        """``output``, with None resolved."""
        return self.output or ("stretch" if self.mode == "released" else "clip")

    @property
    def of_baseline(self) -> bool:
        """Whether ``mode`` is a classical rule, which has no steps and draws nothing."""
        return is_baseline(self.mode)

    @property
    def draws(self) -> bool:
        """Whether the picture depends on noise, and with it on ``seed`` and the prior."""
        return self.use_prior and not self.of_baseline

    @property
    def without_effect(self) -> frozenset[str]:
        """The fields for which ``mode`` and ``use_prior`` have no use: whatever they are, the picture is the same."""
        unused = set() if self.draws else {"update", "eta", "seed", "start"}
        if self.mode == "adaptive":
            unused |= {"tv_weight"}
        if self.of_baseline:
            unused |= {"steps", "tv_weight", "penalty", "phi", "use_prior", "samples"}
        return frozenset(unused)


@dataclass(frozen=True, eq=False)
class FusionResult:
    """What :func:`fuse` returns, on the prior's device.

    Attributes:
        image: [B, C, H, W] float32, C = 3 when one of the sources has 3 channels, else 1; in [-1, 1] unless the
            output rule is `none`.
        luma: the fused full-range luma before colour was put in [B, 1, H, W]; that of ``image`` differs where
            pseudo-colours would have left the range (:func:`~ddfm_core.colour.into_gamut`).
        out_of_gamut: share of the pixels of each pair [B], 0 to 1, that its chroma would have led out of [-1, 1]; 0
            for grey pairs.
        std: of several samples, the standard deviation of their luma per pixel [B, 1, H, W], in units of luma (a
            grey level of 255 is 2 / 255), each after the output rule; its square is the unbiased variance. None with
            one sample.
    """

    image: Tensor
    luma: Tensor
    out_of_gamut: Tensor
    std: Tensor | None = None


def fuse(
    first: Tensor,
    second: Tensor,
    prior: Prior,
    config: FusionConfig | None = None,
    keys: Sequence[bytes] | None = None,
    x_T: Tensor | None = None,  # noqa: N803
    callback: Callback | None = None,
) -> FusionResult:
    """Fuse B registered pairs of one size with DDFM.

    Luma is fused. Chroma comes from the second source where that is coloured, else from the first, per pair; a picture
    with R = G = B counts as grey, and two grey sources of three channels give R = G = B. Sides that are no
    multiples of what the prior needs are extended by reflection at the right and the bottom, and cut back at the end.

    Args:
        first, second: floating-point tensors [B, 1 or 3, H, W] in [-1, 1], H and W at least 16. Infrared, CT,
            PET or SPECT come first, the visible image or MRI second.
        prior: the diffusion model, with the device on which all of this happens.
        config: None is ``FusionConfig()``.
        keys: one per pair; seed, key and number of the sample choose the noise. By default a hash of what the two
            sources show, so that batch, order and file names do not matter. Pairs that share a key share their noise.
        x_T: noise to begin with instead of the keyed one, [B, prior.channels, H, W] (then extended like the sources)
            or of the extended size. Noise drawn in the steps is keyed nevertheless.
        callback: called after each step of the first sample with (timestep, x_t, x0_pred, x0_rectified, state), of the
            extended size. A baseline has no steps.

    Raises:
        ValueError: shapes or values that do not fit the above, more steps than the prior's schedule has, or several
            samples from one given x_T.
    """
    config = config or FusionConfig()
    for name, source in (("first", first), ("second", second)):
        _check_source(name, source)
    if (len(first), *first.shape[2:]) != (len(second), *second.shape[2:]):
        raise ValueError(f"first and second must agree in B, H and W, got {_size(first)} and {_size(second)}")
    if keys is not None and len(keys) != len(first):
        raise ValueError(f"keys must have one entry for each of {len(first)} pairs, got {len(keys)}")
    check_schedule(config, prior.schedule)
    if x_T is not None and config.samples > 1:
        raise ValueError(f"samples is {config.samples}, but with a given x_T there is one start and one sample")

    with torch.inference_mode():
        pair_keys = content_keys(first, second) if keys is None or not config.draws else keys
        first, second = (source.to(prior.device, torch.float32) for source in (first, second))
        rule = config.output_rule()
        moments: RunningMoments | None = None
        for fused in _samples(luma(first), luma(second), prior, config, pair_keys, x_T, callback):
            finished = finish(fused, rule)
            if moments is None:
                moments = RunningMoments(finished)
            else:
                moments.add(finished)
        assert moments is not None  # noqa: S101 - there is one sample at least
        coloured = recolour(moments.mean, first, second)
        outside = (coloured.abs() > 1 + GAMUT_TOLERANCE).any(dim=1) & (moments.mean[:, 0].abs() <= 1)
        image = coloured if rule == "none" else into_gamut(coloured, second)
    # Copies made out here are ordinary tensors, without the restrictions of inference mode.
    return FusionResult(
        image=image.clone(),
        luma=moments.mean.clone(),
        out_of_gamut=outside.float().mean(dim=(1, 2)).clone(),
        std=moments.std().clone() if config.samples > 1 else None,
    )


def check_schedule(config: FusionConfig, schedule: Schedule) -> None:
    """Whether a configuration goes with a prior's schedule.

    Raises:
        ValueError: more steps than the schedule has, a start that it has not, or none given where the one by default,
            a timestep of the linear schedule of a thousand, would be another amount of noise.
    """
    if not config.draws:
        return
    num_timesteps = schedule.num_timesteps
    if config.num_steps > num_timesteps:
        raise ValueError(f"steps is {config.num_steps}, but the prior's schedule has {num_timesteps}")
    if config.start is None and config.start_timestep is not None:
        usual = float(linear_schedule().sigmas[config.start_timestep])
        if abs(math.log(schedule.sigmas[min(config.start_timestep, num_timesteps - 1)] / usual)) > SAME_NOISE:
            alike = int(np.abs(np.log(schedule.sigmas / usual)).argmin())
            raise ValueError(
                f"start is None, which in mode {config.mode!r} is timestep {config.start_timestep} of the linear "
                f"schedule of a thousand; this prior's schedule is another, with as much noise at timestep {alike}: "
                f"give start={alike}"
            )
    if config.start_timestep is not None and config.start_timestep >= num_timesteps:
        raise ValueError(f"start is {config.start_timestep}, but the prior's timesteps are below {num_timesteps}")


def _sample_noise(
    seed: int, keys: Sequence[bytes], index: int, device: torch.device, purpose: str, shape: Sequence[int]
) -> Tensor:
    """The noise of one sample: that of the first has nothing of samples in it, and stays what it is without others."""
    return batch_noise(seed, keys, purpose if index == 0 else f"sample {index}, {purpose}", shape, device)


def _samples(
    first: Tensor,
    second: Tensor,
    prior: Prior,
    config: FusionConfig,
    keys: Sequence[bytes],
    x_T: Tensor | None,  # noqa: N803
    callback: Callback | None,
) -> Iterator[Tensor]:
    """The luma [B, 1, H, W] of each sample, before any output rule, from that of the sources on the prior's device."""
    if is_baseline(config.mode):
        yield fuse_baseline(config.mode, first, second)
        return
    height, width = first.shape[2:]
    # Without a prior too: the sides of FFTs then have small factors, and the surroundings are those beside most priors.
    multiple = prior.multiple if config.use_prior else MULTIPLE_ALONE
    first, second = extend(first, multiple), extend(second, multiple)
    # One for all samples: what the rule finds in the sources does not depend on the noise.
    guidance = Guidance(config.rectifier(), first, second, (height, width))
    if not config.use_prior:
        yield rectify_alone(guidance, config.num_steps, callback)[..., :height, :width]
        return
    shape = (prior.channels, *first.shape[2:])
    given = None if x_T is None else _given_start(x_T, (height, width), (len(first), *shape), prior)
    for index in range(config.samples):
        noise = partial(_sample_noise, config.seed, keys, index, prior.device)
        x_t = noise("x_T", shape) if given is None else given
        x_0 = _sampled(guidance, x_t, prior, config, noise, callback if index == 0 else None)
        yield luma(x_0)[..., :height, :width]


def _sampled(
    guidance: Guidance,
    x_t: Tensor,
    prior: Prior,
    config: FusionConfig,
    noise: Callable[[str, Sequence[int]], Tensor],
    callback: Callback | None,
) -> Tensor:
    """x_0 of one sample, from its noise."""
    shape = x_t.shape[1:]
    start = config.start_timestep
    if start is not None:
        alpha_bar = float(prior.schedule.alphas_cumprod[start])
        x_t = math.sqrt(alpha_bar) * rectify_alone(guidance, 1) + math.sqrt(1 - alpha_bar) * x_t
    return sample(
        prior,
        x_t,
        respaced_timesteps(config.num_steps, prior.schedule.num_timesteps if start is None else start + 1),
        guidance,
        update=config.update,
        eta=config.eta,
        noise=lambda timestep: noise(f"timestep {timestep}", shape),
        callback=callback,
    )


def finish(fused_luma: Tensor, rule: Output) -> Tensor:
    """Apply an output rule to fused luma [B, 1, H, W]; a flat image cannot be stretched and is clipped."""
    if rule == "none":
        return fused_luma
    clipped = fused_luma.clamp(-1, 1)
    if rule == "clip":
        return clipped
    low, high = fused_luma.amin(dim=(1, 2, 3), keepdim=True), fused_luma.amax(dim=(1, 2, 3), keepdim=True)
    span = high - low
    return torch.where(span > 0, 2 * (fused_luma - low) / span - 1, clipped)


def extend(image: Tensor, multiple: int) -> Tensor:
    """Reflect [B, C, H, W] at the right and the bottom, as often as it takes, to multiples of ``multiple``."""
    for axis in (-2, -1):
        side = image.shape[axis]
        if side % multiple:
            index = np.pad(np.arange(side), (0, -side % multiple), mode="reflect")
            image = image.index_select(axis, torch.from_numpy(index).to(image.device))
    return image


def _given_start(x_T: Tensor, size: tuple[int, int], extended: tuple[int, ...], prior: Prior) -> Tensor:  # noqa: N803
    plain = (*extended[:2], *size)
    if tuple(x_T.shape) not in (plain, extended):
        raise ValueError(f"x_T must be {plain} or {extended}, got {tuple(x_T.shape)}")
    return extend(x_T.to(prior.device, torch.float32), prior.multiple)


def _check_source(name: str, source: Tensor) -> None:
    if source.ndim != 4 or source.shape[1] not in (1, 3) or not source.is_floating_point() or len(source) == 0:
        raise ValueError(f"{name} must be floating point [B, 1 or 3, H, W], got {source.dtype} {_size(source)}")
    if min(source.shape[2:]) < SMALLEST_SIDE:
        raise ValueError(f"{name} must be at least {SMALLEST_SIDE} pixels high and wide, got {_size(source)}")
    low, high = source.min().item(), source.max().item()
    if not (low >= -1.001 and high <= 1.001):
        raise ValueError(f"{name} must lie in [-1, 1], got values from {low:.4g} to {high:.4g}")


def _check(field: str, value: object, valid: bool, allowed: str) -> None:
    if not valid:
        raise ValueError(f"{field} is {value!r}; it must be {allowed}")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _size(tensor: Tensor) -> str:
    return "[" + ", ".join(str(side) for side in tensor.shape) + "]"
