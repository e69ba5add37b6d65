"""The bundled prior as a denoiser on held-out photographs, beside denoisers that have learned nothing; and its samples.

    python -m benchmarks.prior_denoising PICTURES
    python -m benchmarks.prior_denoising PICTURES --samples samples.png --only-samples

PICTURES is the folder that the prior was trained from; the hold-out is that of flows/train_prior.py. Prints mean PSNR
at three noise levels, the loss per noise level beside a Wiener filter, and the time of one forward pass. The others
know the noise, too: non-local means with one setting for all noise, h = 0.6 sigma; wavelets with thresholds by
BayesShrink or VisuShrink, and total variation with a weight proportional to the noise, these two as they do best at
that noise on some of the training pictures.

--samples draws pictures from pure noise by the steps of DDPM, without any source, and writes them as a grid.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from skimage.restoration import denoise_nl_means, denoise_tv_chambolle, denoise_wavelet
from torch import Tensor

from ddfm_core.linear_denoiser import mean_spectrum
from ddfm_core.noise import batch_noise
from ddfm_core.priors import DenoiserPrior, Prior, load_prior
from ddfm_core.sampler import sample
from ddfm_core.schedule import respaced_timesteps
from ddfm_core.training import losses_per_noise_level
from flows.train_prior import (
    HOLDOUT,
    JUDGED_CROP,
    JUDGED_TIMESTEPS,
    central_crops,
    denoising_psnr,
    load_pictures,
)
from tasks.evaluation.page import GAP, enlarged, grid, with_margin
from tasks.publish.png import to_grey_levels

Levels = NDArray[np.float32]
Denoise = Callable[[Levels, float], Levels]
"""(noisy [H, W] in grey levels of 255, sigma of 255) -> restored [H, W]."""

SIGMAS: Final = (15, 25, 50)
WAVELETS: Final = ("db1", "db4", "sym4")
THRESHOLDS: Final = ("BayesShrink", "VisuShrink")
TV_WEIGHTS: Final = (0.55, 0.7, 0.85, 1.0, 1.2)
CHOSEN_ON: Final = 10
"""Training pictures, evenly spread, on which the settings of wavelets and total variation are chosen."""


def non_local_means(noisy: Levels, sigma: float) -> Levels:
    """Buades et al., CVPR 2005."""
    restored: Levels = denoise_nl_means(
        noisy, patch_size=5, patch_distance=6, h=0.6 * sigma, sigma=sigma, fast_mode=True
    )
    return restored


def soft_thresholds(noisy: Levels, sigma: float, wavelet: str, method: str) -> Levels:
    """Wavelets with BayesShrink (Chang et al. 2000) or VisuShrink (Donoho & Johnstone 1994)."""
    restored: Levels = denoise_wavelet(
        noisy / 255, sigma=sigma / 255, wavelet=wavelet, method=method, mode="soft", rescale_sigma=True
    )
    return restored * 255


def total_variation(noisy: Levels, sigma: float, weight: float) -> Levels:
    """Chambolle 2004, with ``weight`` times sigma."""
    restored: Levels = denoise_tv_chambolle(noisy / 255, weight=weight * sigma / 255)  # type: ignore[no-untyped-call]
    return restored * 255


CANDIDATES: Final[Mapping[str, Mapping[str, Denoise]]] = {
    "NL-means": {"h = 0.6 sigma": non_local_means},
    "wavelet": {
        f"{method}, {wavelet}": partial(soft_thresholds, wavelet=wavelet, method=method)
        for wavelet in WAVELETS
        for method in THRESHOLDS
    },
    "TV": {f"weight {weight} sigma": partial(total_variation, weight=weight) for weight in TV_WEIGHTS},
}
"""By name and then by setting."""


def mean_psnr(denoise: Denoise, pictures: Sequence[Tensor], sigma: float) -> float:
    """Mean PSNR in dB on the noise that the prior is judged on, clipped to the valid range."""
    figures = []
    for index, picture in enumerate(pictures):
        clean = (picture.float() / 127.5 - 1)[None]
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(index))
        noisy = ((clean + sigma / 127.5 * noise) * 127.5 + 127.5)[0, 0].numpy()
        error = np.mean((np.clip(denoise(noisy, sigma), 0, 255) - picture[0].numpy()) ** 2)
        figures.append(10 * np.log10(255**2 / error))
    return float(np.mean(figures))


def best_setting(name: str, pictures: Sequence[Tensor], sigma: float) -> tuple[str, Denoise]:
    """The setting of a denoiser that does best on some pictures."""
    settings = CANDIDATES[name]
    if len(settings) == 1:
        return next(iter(settings.items()))
    some = pictures[:: -(-len(pictures) // CHOSEN_ON)]
    return max(settings.items(), key=lambda setting: mean_psnr(setting[1], some, sigma))


def forward_seconds(prior: Prior) -> float:
    """The median time of one call for a picture of 256 x 256."""
    x_t = torch.randn(1, prior.channels, 256, 256)
    prior(x_t, 100)
    times = []
    for _ in range(10):
        began = time.perf_counter()
        prior(x_t, 100)
        times.append(time.perf_counter() - began)
    return float(np.median(times))


def print_figures(prior: DenoiserPrior, pictures: Path) -> None:
    """Measure everything but the samples."""
    training, judging = load_pictures(pictures, HOLDOUT)
    seconds = forward_seconds(prior)
    print(f"forward pass 256 x 256: {seconds:.3f} s on {torch.get_num_threads()} threads", flush=True)
    print(f"\n| sigma | {' | '.join(CANDIDATES)} | prior |\n|---|{'---|' * len(CANDIDATES)}---|")
    for sigma in SIGMAS:
        cells = []
        for name in CANDIDATES:
            setting, denoise = best_setting(name, training, sigma)
            cells.append(f"{mean_psnr(denoise, judging, sigma):.2f} ({setting})")
        cells.append(f"{denoising_psnr(prior.network, judging, sigma, prior.schedule):.2f}")
        print(f"| {sigma} | {' | '.join(cells)} |", flush=True)
    level, power = mean_spectrum(central_crops(training, JUDGED_CROP))
    holdout = central_crops(judging, JUDGED_CROP)
    print("\n| timestep | noise to signal | loss of eps | Wiener |\n|---|---|---|---|")
    for timestep in JUDGED_TIMESTEPS:
        (loss,) = losses_per_noise_level(prior, holdout, level, power, prior.schedule, (timestep,))
        print(f"| {timestep} | {loss.sigma:.3g} | {loss.network:.3g} | {loss.wiener:.3g} |", flush=True)


def unconditional_samples(prior: Prior, count: int, side: int, steps: int, seed: int) -> Tensor:
    """Pictures of the prior alone [count, channels, side, side] in [-1, 1], by ``steps`` ancestral steps of DDPM."""
    keys = [f"sample {index}".encode() for index in range(count)]
    shape = (prior.channels, side, side)

    def noise(purpose: str) -> Tensor:
        return batch_noise(seed, keys, purpose, shape, prior.device)

    with torch.inference_mode():
        x_0 = sample(
            prior,
            noise("x_T"),
            respaced_timesteps(steps, prior.schedule.num_timesteps),
            update="posterior",
            noise=lambda timestep: noise(f"timestep {timestep}"),
        )
    return x_0.clamp(-1, 1)


def samples_page(pictures: Tensor, columns: int) -> Image.Image:
    """Samples side by side."""
    levels = [to_grey_levels(picture.numpy()) for picture in pictures]
    cells = [enlarged(one[0] if len(one) == 1 else one.transpose(1, 2, 0), 1) for one in levels]
    return with_margin(grid(cells, columns, GAP // 2), GAP // 2)


def main() -> None:
    """Measure and print, draw and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--samples", type=Path, metavar="FILE.png", help="write unconditional samples as a grid")
    parser.add_argument("--samples-count", type=int, default=12)
    parser.add_argument("--samples-side", type=int, default=128, help="pixels (default 128)")
    parser.add_argument("--samples-steps", type=int, default=250)
    parser.add_argument("--seed", type=int, default=0, help="of the samples")
    parser.add_argument("--only-samples", action="store_true", help="measure nothing")
    arguments = parser.parse_args()
    if arguments.only_samples and arguments.samples is None:
        parser.error("--only-samples needs --samples FILE.png")
    prior = load_prior("bundled")
    assert isinstance(prior, DenoiserPrior)
    if arguments.samples:
        pictures = unconditional_samples(
            prior, arguments.samples_count, arguments.samples_side, arguments.samples_steps, arguments.seed
        )
        samples_page(pictures, columns=-(-arguments.samples_count // 2)).convert("L").save(arguments.samples)
        print(f"{arguments.samples}: {arguments.samples_count} samples by {arguments.samples_steps} ancestral steps")
    if not arguments.only_samples:
        print_figures(prior, arguments.pictures)


if __name__ == "__main__":
    main()
