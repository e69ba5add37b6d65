"""The bundled prior as a denoiser on held-out photographs, beside non-local means.

    python benchmarks/prior_denoising.py PICTURES

PICTURES is the folder that the prior was trained from; the hold-out is that of flows/train_prior.py. Prints mean PSNR
at three noise levels, the loss per noise level beside a Wiener filter, and the time of one forward pass.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from skimage.restoration import denoise_nl_means

from ddfm_core.priors import DenoiserPrior, load_prior
from flows.train_prior import HOLDOUT, judge, load_pictures


def nl_means_psnr(pictures: list[torch.Tensor], sigma: float) -> float:
    """Mean PSNR in dB of non-local means with known sigma (of 255) on the noise that the prior is judged on."""
    figures = []
    for index, picture in enumerate(pictures):
        clean = (picture.float() / 127.5 - 1)[None]
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(index))
        noisy = ((clean + sigma / 127.5 * noise) * 127.5 + 127.5)[0, 0].numpy()
        restored = denoise_nl_means(noisy, patch_size=5, patch_distance=6, h=0.6 * sigma, sigma=sigma, fast_mode=True)
        error = np.mean((np.clip(restored, 0, 255) - picture[0].numpy()) ** 2)
        figures.append(10 * np.log10(255**2 / error))
    return float(np.mean(figures))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("pictures", type=Path)
    arguments = parser.parse_args()
    prior = load_prior("bundled")
    assert isinstance(prior, DenoiserPrior)
    training, judging = load_pictures(arguments.pictures, HOLDOUT)
    x_t = torch.randn(1, 1, 256, 256)
    prior(x_t, 100)
    times = []
    for _ in range(10):
        began = time.perf_counter()
        prior(x_t, 100)
        times.append(time.perf_counter() - began)
    print(f"forward pass 256 x 256: {np.median(times):.3f} s on {torch.get_num_threads()} threads", flush=True)
    report = judge(prior.network, training, judging, prior.schedule)
    for sigma in (15, 25, 50):
        print(
            f"sigma {sigma}: prior {report['psnr'][str(sigma)]:.2f} dB, NL-means {nl_means_psnr(judging, sigma):.2f} dB"
        )
    print("timestep   sigma   loss      Wiener")
    for loss in report["losses"]:
        print(f"{loss['timestep']:8} {loss['sigma']:7.3f} {loss['network']:9.3g} {loss['wiener']:9.3g}")


if __name__ == "__main__":
    main()
