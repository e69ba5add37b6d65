"""`fuse()`: two registered pictures of one scene into one, the public entry of the core."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from ddfm_core.colour import luma, recolour
from ddfm_core.noise import batch_noise, content_keys
from ddfm_core.priors import Prior
from ddfm_core.rectify import PaperRectifier, Rectifier, ReleasedRectifier
from ddfm_core.sampler import Callback, Guidance, Update, sample
from ddfm_core.schedule import respaced_timesteps

# Changes when, and only when, the same inputs give other pixels than before.
ALGORITHM_VERSION: int = 1

SMALLEST_SIDE = 16

Mode = Literal["paper", "released"]
Output = Literal["clip", "stretch", "none"]


@dataclass(frozen=True)
class FusionConfig:
    """How :func:`fuse` works. A value outside what is allowed raises ``ValueError``.

    Attributes:
        mode: the rectification, `paper` (its equations) or `released` (what its published code computes).
        steps: timesteps visited, out of those of the prior's schedule.
        update: the step from x_t to x_{t-1}, `ddim` or `posterior` (:func:`~ddfm_core.sampler.step_coefficients`).
        eta: noise of a `ddim` step, 0 (none) to 1.
        tv_weight: weight of the gradient penalty, the paper's psi, 0 or more.
        penalty: the paper's eta, 0 or more; None is 0.1 in mode `paper` and 0.001 in mode `released`.
        output: what becomes of the fused luma: `clip` to [-1, 1], `stretch` each image's own minimum and maximum to
            -1 and 1, or `none`; None is `clip` in mode `paper` and `stretch` in mode `released`.
        seed: chooses the noise, together with the key of the pair.
    """

    mode: Mode = "paper"
    steps: int = 100
    update: Update = "ddim"
    eta: float = 0.0
    tv_weight: float = 0.5
    penalty: float | None = None
    output: Output | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        _check("mode", self.mode, self.mode in get_args(Mode), f"one of {', '.join(get_args(Mode))}")
        _check("steps", self.steps, _is_int(self.steps) and self.steps >= 1, "an integer of 1 or more")
        _check("update", self.update, self.update in get_args(Update), f"one of {', '.join(get_args(Update))}")
        _check("eta", self.eta, _is_number(self.eta) and 0 <= self.eta <= 1, "a number from 0 to 1")
        if self.update != "ddim":
            _check("eta", self.eta, self.eta == 0, f"0 with update {self.update!r}; it belongs to 'ddim'")
        _check("tv_weight", self.tv_weight, _is_number(self.tv_weight) and self.tv_weight >= 0, "a number of 0 or more")
        penalty_ok = self.penalty is None or (_is_number(self.penalty) and self.penalty >= 0)
        _check("penalty", self.penalty, penalty_ok, "None or a number of 0 or more")
        output_ok = self.output is None or self.output in get_args(Output)
        _check("output", self.output, output_ok, f"None or one of {', '.join(get_args(Output))}")
        _check("seed", self.seed, _is_int(self.seed), "an integer")

    def rectifier(self) -> Rectifier:
        """The rule of ``mode`` with this configuration's weights."""
        rule = PaperRectifier if self.mode == "paper" else ReleasedRectifier
        if self.penalty is None:
            return rule(tv_weight=self.tv_weight)
        return rule(penalty=self.penalty, tv_weight=self.tv_weight)

    def output_rule(self) -> Output:
        """``output``, with None resolved."""
        return self.output or ("clip" if self.mode == "paper" else "stretch")


@dataclass(frozen=True, eq=False)
class FusionResult:
    """What :func:`fuse` returns, on the prior's device.

    Attributes:
        image: [B, C, H, W] float32, C = 3 when one of the sources has 3 channels, else 1; in [-1, 1] unless the
            output rule is `none`.
        luma: its full-range luma before colour was put in [B, 1, H, W].
    """

    image: Tensor
    luma: Tensor


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
        keys: one per pair; seed and key choose the noise. By default a hash of what the two sources show, so that
            batch, order and file names do not matter. Pairs that share a key share their noise.
        x_T: the start instead of keyed noise, [B, prior.channels, H, W] (then extended like the sources) or of
            the extended size. Noise drawn in the steps is keyed nevertheless.
        callback: called after each step with (timestep, x_t, x0_pred, x0_rectified, state), of the extended size.

    Raises:
        ValueError: shapes or values that do not fit the above, or more steps than the prior's schedule has.
    """
    config = config or FusionConfig()
    for name, source in (("first", first), ("second", second)):
        _check_source(name, source)
    if (len(first), *first.shape[2:]) != (len(second), *second.shape[2:]):
        raise ValueError(f"first and second must agree in B, H and W, got {_size(first)} and {_size(second)}")
    if keys is not None and len(keys) != len(first):
        raise ValueError(f"keys must have one entry for each of {len(first)} pairs, got {len(keys)}")
    if config.steps > prior.schedule.num_timesteps:
        raise ValueError(f"steps is {config.steps}, but the prior's schedule has {prior.schedule.num_timesteps}")

    with torch.inference_mode():
        noise = partial(batch_noise, config.seed, content_keys(first, second) if keys is None else keys)
        first, second = (source.to(prior.device, torch.float32) for source in (first, second))
        height, width = first.shape[2:]
        lumas = [extend(luma(source), prior.multiple) for source in (first, second)]
        shape = (prior.channels, *lumas[0].shape[2:])
        start = noise("x_T", shape, prior.device) if x_T is None else _given_start(x_T, first, shape, prior)

        x_0 = sample(
            prior,
            start,
            respaced_timesteps(config.steps, prior.schedule.num_timesteps),
            Guidance(config.rectifier(), *lumas),
            update=config.update,
            eta=config.eta,
            noise=lambda timestep: noise(f"timestep {timestep}", shape, prior.device),
            callback=callback,
        )
        rule = config.output_rule()
        fused = finish(luma(x_0)[..., :height, :width], rule)
        image = recolour(fused, first, second)
        if rule != "none":
            image = image.clamp(-1, 1)  # chroma may lead out of the range again
    # Copies made out here are ordinary tensors, without the restrictions of inference mode.
    return FusionResult(image=image.clone(), luma=fused.clone())


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


def _given_start(x_T: Tensor, source: Tensor, shape: tuple[int, ...], prior: Prior) -> Tensor:  # noqa: N803
    plain, extended = (len(source), prior.channels, *source.shape[2:]), (len(source), *shape)
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
