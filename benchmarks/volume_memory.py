"""The memory that a large pair of volumes takes: a CT of 512 x 512 x 600 with an MR of 256 x 256 x 180.

    python -m benchmarks.volume_memory FOLDER --steps 1

The series are written once into FOLDER. Reading, registration, normalisation, fusion, measuring and writing then run
as they do in a run, and the peak of the process is printed after each.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from flows.fuse_archive import run_archive
from flows.samples.dicom_files import DicomScan, write_dicom_series
from flows.samples.grids import rigid_motion, slices_grid
from flows.samples.head import head_ct, head_mr
from flows.terminal import TerminalWatcher, make_console
from tasks import volume_output, volume_pair
from tasks.job_file import make_job

CT = ((600, 512, 512), (0.4, 0.5, 0.5))
MR = ((180, 256, 256), (1.2, 0.95, 0.95))


def make_series(folder: Path) -> None:
    """Write both series where they are missing; the CT in slabs, since the phantom itself takes memory."""
    for modality, head, (shape, spacing) in (("CT", head_ct, CT), ("MR", head_mr, MR)):
        if (folder / modality).exists():
            continue
        grid = slices_grid(shape, spacing, (0, 5, 0))
        motion = rigid_motion((0, 0, 1), 6, (5, 3, -4)) if modality == "CT" else np.eye(4)
        scan = DicomScan(modality, study="large", series=modality, frame_of_reference=modality)
        write_dicom_series(folder / modality / "head", head(shape, grid, motion), grid, scan)


def told(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, with a line after it."""

    def call(*arguments: Any, **options: Any) -> Any:
        began = time.perf_counter()
        result = function(*arguments, **options)
        print(f"| {name} | {peak():.0f} | {time.perf_counter() - began:.1f} |", flush=True)
        return result

    return call


def peak() -> float:
    """MiB that this process has used at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Make the series in a process of its own, then fuse them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--register", default="auto")
    parser.add_argument("--fixed", default="auto")
    arguments = parser.parse_args()
    maker = os.fork()
    if maker == 0:
        make_series(arguments.folder)
        os._exit(0)
    os.waitpid(maker, 0)
    os.environ.setdefault("DDFM_PSEUDONYM_SECRET", "a secret of this benchmark alone")
    for module, name in (
        (volume_pair, "read_volume"), (volume_pair, "register_volumes"), (volume_pair, "normalise_volume"),
        (volume_output, "encode_nifti"),
    ):  # fmt: skip
        setattr(module, name, told(name, getattr(module, name)))
    job = make_job(
        {
            "first": str(arguments.folder / "CT"),
            "second": str(arguments.folder / "MR"),
            "out": str(arguments.folder / "out"),
            "steps": arguments.steps,
            "register": arguments.register,
            "batch": 8,
            "method": f"{arguments.register}-{arguments.fixed}",
            "volumes": {"fixed": arguments.fixed},
        }
    )
    print(f"| stage | peak MiB | seconds |\n|---|---|---|\n| imports | {peak():.0f} | |")
    run_archive(job, TerminalWatcher(make_console()))
    print(f"| all | {peak():.0f} | |")


if __name__ == "__main__":
    main()
