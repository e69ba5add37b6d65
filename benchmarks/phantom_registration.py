"""Rigid registration of a computed head: target errors from random starts, and pairs that must be refused.

    python benchmarks/phantom_registration.py --starts 20

The fixed source is an MR of 128 x 128 x 48 voxels (1.8 x 1.8 x 3 mm); the moving one is a CT or a PET of that size of
the same head, turned by up to 20 degrees about a random axis and moved by up to 30 mm. The target error is the
distance between where a point is put and where it is, at the eight corners of the head's bounding box and at
landmarks inside; both means, and the worst point of all. Then pairs of which no alignment is right.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from flows.samples.grids import random_motion, slices_grid
from flows.samples.head import head_corners, head_ct, head_landmarks, head_mr, head_pet
from tasks.codes import PairError
from tasks.register.volumes import RegistrationOptions, register_volumes
from tasks.volume import Volume

SHAPE, SPACING = (48, 128, 128), (3.0, 1.8, 1.8)
TO_LPS = np.diag([-1.0, -1.0, 1.0])
OPTIONS = RegistrationOptions(method="rigid")


def volume(
    modality: str,
    motion: NDArray[np.float64] | None = None,
    *,
    seed: int = 0,
    noise_seed: int = 0,
    shape: tuple[int, int, int] = SHAPE,
    centre: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Volume:
    """A scan of head number ``seed``."""
    affine = slices_grid(shape, SPACING, centre)
    scan = {"CT": head_ct, "MR": head_mr, "PT": head_pet}[modality]
    voxels = scan(shape, affine, motion, seed=seed, noise_seed=noise_seed)
    return Volume(voxels, affine, 0, modality, {"CT": "HU", "MR": "", "PT": "SUVbw"}[modality], b"")


def target_errors(transform: str, motion: NDArray[np.float64]) -> tuple[float, float, float]:
    """Millimetres: mean at the corners, mean at the landmarks, the worst of all."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "found.tfm"
        path.write_text(transform)
        found = sitk.ReadTransform(str(path))
    points = np.vstack([head_corners(), head_landmarks()])
    got = np.array([found.TransformPoint((TO_LPS @ point).tolist()) for point in points]) @ TO_LPS
    errors = np.linalg.norm(got - (points @ motion[:3, :3].T + motion[:3, 3]), axis=1)
    return float(errors[:8].mean()), float(errors[8:].mean()), float(errors.max())


def random_starts(modality: str, starts: int) -> None:
    """One line of the table."""
    fixed = volume("MR", noise_seed=1)
    errors, seconds, refused = [], [], []
    for start in range(starts):
        motion = random_motion(np.random.default_rng(1000 + start), 20, 30)
        moving = volume(modality, motion, noise_seed=100 + start)
        began = time.process_time()
        try:
            registered = register_volumes(fixed, moving, OPTIONS)
            errors.append(target_errors(registered.transform or "", motion))
        except PairError as error:
            refused.append(error.detail)
        seconds.append(time.process_time() - began)
    corners, landmarks, worst = np.array(errors).T
    print(
        f"| MR-{modality} | {len(errors)} of {starts} | {corners.mean():.2f} / {corners.max():.2f} "
        f"| {landmarks.mean():.2f} / {landmarks.max():.2f} | {worst.max():.2f} "
        f"| {np.mean(seconds):.1f} / {max(seconds):.1f} |",
        flush=True,
    )
    for detail in refused:
        print(f"  refused: {detail}")


def impossible_pairs() -> None:
    """What became of each."""
    fixed = volume("MR", noise_seed=1)
    motion = random_motion(np.random.default_rng(3), 20, 30)
    moving = volume("CT", motion, noise_seed=2)
    noise = np.random.default_rng(5).random(SHAPE).astype(np.float32)
    half = (30, 128, 128)
    pairs = {
        "another head, CT": (fixed, volume("CT", motion, seed=4)),
        "another head, PET": (fixed, volume("PT", motion, seed=4)),
        "left and right exchanged, CT": (fixed, replace(moving, voxels=moving.voxels[:, :, ::-1].copy())),
        "left and right exchanged, PET": (
            fixed,
            replace(volume("PT", motion), voxels=volume("PT", motion).voxels[:, :, ::-1].copy()),
        ),
        "noise": (fixed, replace(moving, voxels=noise, modality="PT", unit="")),
        "upper half and lower half": (
            volume("MR", shape=half, centre=(0, 0, 45)),
            volume("CT", shape=half, centre=(0, 0, -45)),
        ),
        "constant": (fixed, replace(moving, voxels=np.full(SHAPE, 40, np.float32))),
    }
    for name, (first, second) in pairs.items():
        try:
            register_volumes(first, second, OPTIONS)
            print(f"| {name} | ACCEPTED |")
        except PairError as error:
            print(f"| {name} | {error.code} | {error.detail} |", flush=True)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--starts", type=int, default=20)
    arguments = parser.parse_args()
    print("| pair | accepted | corners mean / worst mm | landmarks mean / worst mm | worst mm | CPU s mean / worst |")
    print("|---|---|---|---|---|---|")
    for modality in ("CT", "PT"):
        random_starts(modality, arguments.starts)
    print("\n| impossible pair | outcome | figures |\n|---|---|---|")
    impossible_pairs()


if __name__ == "__main__":
    main()
