"""Train the bundled prior from a folder of photographs, on a CPU or a GPU.

    python -m flows.train_prior PICTURES --out FOLDER --minutes 100
    python -m flows.train_prior PICTURES --out FOLDER --from bundled      goes on from the weights of a prior

FOLDER receives checkpoint.pt (for resuming: run the same command again), prior.safetensors (the averaged
weights in half precision) and report.json (hold-out figures). Pictures whose file name matches --holdout are
kept for judging and never trained on.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from prefect import flow
from safetensors.torch import save_file
from torch import Tensor

from ddfm_core.denoiser import Denoiser, DenoiserConfig
from ddfm_core.linear_denoiser import mean_spectrum
from ddfm_core.priors import DenoiserPrior, load_prior
from ddfm_core.schedule import Schedule, linear_schedule
from ddfm_core.training import Trainer, TrainingConfig, denoise, join_linear, losses_per_noise_level

logger = logging.getLogger(__name__)

PICTURE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}
HOLDOUT = r"^bsds_\d*[16]$"
JUDGED_TIMESTEPS = (0, 10, 25, 56, 100, 200, 300, 400, 500, 600, 700, 800, 900, 999)
JUDGED_CROP = 256
REPORT_EVERY_SECONDS = 60.0
CHECKPOINT_EVERY_SECONDS = 300.0


def load_pictures(folder: Path, holdout: str) -> tuple[list[Tensor], list[Tensor]]:
    """Grey pictures below ``folder`` as uint8 tensors [1, H, W]: (for training, for judging).

    Args:
        holdout: regular expression searched in the file's stem; a match keeps the picture for judging.

    Raises:
        ValueError: either part would be empty.
    """
    training: list[Tensor] = []
    judging: list[Tensor] = []
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in PICTURE_SUFFIXES:
            with Image.open(path) as picture:
                grey = torch.from_numpy(np.array(picture.convert("L")))[None]
            (judging if re.search(holdout, path.stem) else training).append(grey)
    if not training or not judging:
        raise ValueError(f"{folder}: {len(training)} pictures to train on, {len(judging)} held out; both are needed")
    return training, judging


def usable_pictures(
    training: list[Tensor], judging: list[Tensor], largest_crop: int, multiple: int
) -> tuple[list[Tensor], list[Tensor]]:
    """Those that are large enough: to train on for the largest crop, to judge by for the padding to a multiple.

    Args:
        training, judging: as of :func:`load_pictures`.
        largest_crop: side in pixels of the largest crop that is trained on.
        multiple: of the sides of a picture that the network takes.

    Raises:
        ValueError: what would be found out only at the end of the training: one of the lists has no picture of
            ``JUDGED_CROP`` pixels, from which the hold-out figures are taken, or none to train on is left.
    """
    large = [picture for picture in training if min(picture.shape[-2:]) >= largest_crop]
    judged = [picture for picture in judging if min(picture.shape[-2:]) >= multiple]
    for name, pictures, needed in (
        ("to train on", training, max(largest_crop, JUDGED_CROP)),
        ("held out", judging, max(multiple, JUDGED_CROP)),
    ):
        largest = max(min(picture.shape[-2:]) for picture in pictures)
        if largest < needed:
            raise ValueError(
                f"of the {len(pictures)} pictures {name} one at least must be {needed} pixels high and wide (crops are "
                f"of up to {largest_crop} pixels, and judged are {JUDGED_CROP}); the shorter side of the largest is "
                f"{largest}"
            )
    return large, judged


def central_crops(pictures: list[Tensor], size: int) -> Tensor:
    """Central crops [N, 1, size, size] in [-1, 1] of the pictures that are large enough."""
    crops = []
    for picture in pictures:
        height, width = picture.shape[-2:]
        if min(height, width) >= size:
            top, left = (height - size) // 2, (width - size) // 2
            crops.append(picture[:, top : top + size, left : left + size].float() / 127.5 - 1)
    return torch.stack(crops)


def denoising_psnr(network: Denoiser, pictures: list[Tensor], sigma: float, schedule: Schedule) -> float:
    """Mean PSNR in dB over whole pictures with noise of ``sigma`` (of 255), clipped to the valid range."""
    device = next(network.parameters()).device
    figures = []
    with torch.inference_mode():
        for index, picture in enumerate(pictures):
            clean = (picture.float() / 127.5 - 1)[None]
            noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(index))
            noisy = (clean + sigma / 127.5 * noise).to(device)
            restored = denoise(network, noisy, sigma / 127.5, schedule).clamp(-1, 1)
            error = ((restored.cpu() - clean) * 127.5).square().mean()
            figures.append(float(10 * torch.log10(255**2 / error)))
    return sum(figures) / len(figures)


def judge(network: Denoiser, training: list[Tensor], judging: list[Tensor], schedule: Schedule) -> dict[str, Any]:
    """Hold-out figures: denoising PSNR at three noise levels, eps loss per timestep beside a Wiener filter."""
    device = next(network.parameters()).device
    level, power = (tensor.to(device) for tensor in mean_spectrum(central_crops(training, JUDGED_CROP)))
    holdout = central_crops(judging, JUDGED_CROP).to(device)
    prior = DenoiserPrior(network, schedule)
    return {
        "psnr": {str(sigma): denoising_psnr(network, judging, sigma, schedule) for sigma in (15, 25, 50)},
        "holdout_crops": len(holdout),
        "losses": [
            asdict(loss) for loss in losses_per_noise_level(prior, holdout, level, power, schedule, JUDGED_TIMESTEPS)
        ],
    }


def save_prior(network: Denoiser, path: Path) -> None:
    """Write the weights in half precision, with what a reader needs to rebuild the prior in the metadata."""
    description = {"network": network.config.as_json(), "schedule": "linear", "num_timesteps": 1000, "prediction": "v"}
    weights = {key: tensor.detach().half().cpu().contiguous() for key, tensor in network.state_dict().items()}
    save_file(weights, path, metadata={"ddfm_prior": json.dumps(description)})


def save_checkpoint(trainer: Trainer, path: Path) -> None:
    """Replace the checkpoint atomically, so that a kill leaves the last one whole."""
    partial = path.with_suffix(".partial")
    torch.save(trainer.state(), partial)
    partial.replace(path)


def train(
    pictures: Path,
    out: Path,
    config: TrainingConfig,
    network: DenoiserConfig,
    holdout: str,
    device: str,
    begin_with: str | None = None,
) -> dict[str, Any]:
    """Train, or go on from ``out``/checkpoint.pt, until the time budget is used; returns what :func:`judge` says.

    Args:
        begin_with: a prior of this kind whose weights training begins with, where there is no checkpoint yet.

    Raises:
        ValueError: before the first step: too few pictures, or too small ones, or a prior of another kind or size.
        PriorError: the prior to begin with cannot be loaded.
    """
    training, judging = usable_pictures(*load_pictures(pictures, holdout), max(config.crop_sizes), network.multiple)
    schedule = linear_schedule()
    trainer = Trainer(network, config, schedule, torch.device(device))
    checkpoint = out / "checkpoint.pt"
    if checkpoint.exists():
        trainer.load_state(torch.load(checkpoint, map_location=device, weights_only=True))
    elif begin_with is not None:
        prior = load_prior(begin_with, device=device)
        if not isinstance(prior, DenoiserPrior) or replace(prior.network.config, spectrum=network.spectrum) != network:
            raise ValueError(f"{begin_with} is no prior of the kind and size that is trained here; begin without it")
        trainer.begin_with(prior.network)
    out.mkdir(parents=True, exist_ok=True)
    parameters = sum(parameter.numel() for parameter in trainer.network.parameters())
    logger.info(
        "%d pictures to train on, %d held out, %d parameters, from step %d",
        len(training), len(judging), parameters, trainer.steps,
    )  # fmt: skip

    last = reported = saved = time.monotonic()
    running = 0.0
    while trainer.progress < 1:
        loss = trainer.step(training)
        running = loss if running == 0 else 0.99 * running + 0.01 * loss
        now = time.monotonic()
        trainer.seconds += now - last
        last = now
        if now - reported > REPORT_EVERY_SECONDS:
            reported = now
            logger.info("step %d, %.0f %% of the time, loss %.4f", trainer.steps, 100 * trainer.progress, running)
        if now - saved > CHECKPOINT_EVERY_SECONDS:
            saved = now
            save_checkpoint(trainer, checkpoint)
            psnr = denoising_psnr(trainer.averaged, judging[:20], 25, schedule)
            logger.info("step %d: %.2f dB on 20 held-out pictures at sigma 25", trainer.steps, psnr)
            # What was spent on saving and judging is not training time.
            last = time.monotonic()
    save_checkpoint(trainer, checkpoint)
    crops = central_crops(training, JUDGED_CROP).to(trainer.device)
    finished = join_linear(trainer.averaged, crops, schedule)
    save_prior(finished, out / "prior.safetensors")
    report = judge(finished, training, judging, schedule) | {"steps": trainer.steps, "parameters": parameters}
    (out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    return report


@flow(name="train-prior")
async def train_prior(
    pictures: Path,
    out: Path,
    minutes: float = 100.0,
    seed: int = 0,
    holdout: str = HOLDOUT,
    device: str = "cpu",
    begin_with: str | None = None,
) -> dict[str, Any]:
    """Training with the default settings of :class:`TrainingConfig`, as a Prefect flow; see :func:`train`."""
    config = TrainingConfig(minutes=minutes, seed=seed)
    return train(pictures, out, config, DenoiserConfig(), holdout, device, begin_with)


def main() -> None:
    """The command line of this module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("pictures", type=Path, help="folder of photographs, searched with its subfolders")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoint, weights and report")
    parser.add_argument("--from", dest="begin_with", metavar="PRIOR", help="weights to begin with: bundled, or a file")
    parser.add_argument("--minutes", type=float, default=100.0, help="time budget (default 100)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--holdout", default=HOLDOUT, help="file stems kept for judging (regular expression)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    defaults = TrainingConfig()
    parser.add_argument("--crop-sizes", type=int, nargs="+", default=defaults.crop_sizes, help="sides, taken in turn")
    parser.add_argument("--learning-rate", type=float, default=defaults.learning_rate, help="peak of the cosine")
    parser.add_argument("--ema-decay", type=float, default=defaults.ema_decay, help="of the averaged weights")
    parser.add_argument("--low-noise-share", type=float, default=defaults.low_noise_share)
    parser.add_argument("--high-noise-share", type=float, default=defaults.high_noise_share)
    arguments = parser.parse_args()
    # Importing Prefect configures the root logger; force puts ours in its place.
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", force=True)
    config = TrainingConfig(
        minutes=arguments.minutes,
        crop_sizes=tuple(arguments.crop_sizes),
        learning_rate=arguments.learning_rate,
        ema_decay=arguments.ema_decay,
        low_noise_share=arguments.low_noise_share,
        high_noise_share=arguments.high_noise_share,
        seed=arguments.seed,
    )
    report = train(
        arguments.pictures, arguments.out, config, DenoiserConfig(), arguments.holdout, arguments.device,
        arguments.begin_with,
    )  # fmt: skip
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
