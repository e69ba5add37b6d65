"""A DICOM archive of studies, some of them bad, fused end to end to NIfTI, derived DICOM and pictures.

    python -m benchmarks.study_archive FOLDER --steps 25

Prints a line per study (what it should become, what it became), a table of rows by status and code, and the seconds;
writes FOLDER/montage.png: three rows per study (first, second, fused), every few slices. The moving source is shown
by the headers, so that what a registration did is seen in the fused row.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from flows.fuse_archive import run_archive
from flows.samples.archives import SampleStudy, make_study_archive
from flows.terminal import TerminalWatcher, make_console
from tasks.current import current_rows
from tasks.job import Job
from tasks.job_file import make_job
from tasks.normalise_volume import normalise_volume
from tasks.read.volume import read_volume
from tasks.register.grid import resample
from tasks.slices import slicing_of
from tasks.volume_options import VolumeOptions

SHOWN_SLICES = 6
SHOWN_STUDIES = 6
MODALITIES = (("ct_mri", "CT"), ("pet_mri", "PT"))


def job_of(folder: Path, name: str, modality: str, steps: int, mode: str) -> Job:
    """One half of the archive: its CT-MR studies, or its PET-MR studies."""
    settings = {
        "archive": str(folder / "archive" / name),
        "modality_first": modality,
        "modality_second": "MR",
        "out": str(folder / "fused" / name),
        "steps": steps,
        "mode": mode,
        "batch": 8,
        "volumes": {"also_write": ["dicom", "png"]},
    }
    return make_job(settings)


def strip(study: SampleStudy, row: dict[str, Any]) -> np.ndarray:
    """First, second and fused, one below the other, as normalised for the core."""
    files = {side: [str(path) for path in sorted((study.folder / side).rglob("*")) if path.is_file()]
             for side in (study.first, study.second)}  # fmt: skip
    moving, fixed = (read_volume(files[side], "dicom", VolumeOptions(), 1) for side in (study.first, study.second))
    slicing = slicing_of(fixed.affine, fixed.voxels.shape, fixed.slice_axis)
    on_fixed, _ = resample(moving, fixed)
    rows = [slicing.split(normalise_volume(fixed)[0])]
    lo, hi = row["normalisation_first_lo"], row["normalisation_first_hi"]
    rows.insert(0, slicing.split(np.clip((on_fixed - lo) / (hi - lo) * 2 - 1, -1, 1)))
    fused = np.asarray(nib.load(row["output_uri"]).dataobj, np.float32).transpose(2, 1, 0)
    lo, hi = row["normalisation_second_lo"], row["normalisation_second_hi"]
    rows.append(slicing.split((fused - lo) / (hi - lo) * 2 - 1))
    chosen = np.linspace(2, len(fused) - 3, SHOWN_SLICES).astype(int)
    return np.concatenate([np.concatenate([one[k] for k in chosen], axis=1) for one in rows])


def main() -> None:
    """Make the archive, fuse it, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--studies", type=int, default=20)
    parser.add_argument("--bad", type=int, default=4)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--mode", default="paper")
    arguments = parser.parse_args()
    os.environ.setdefault("DDFM_PSEUDONYM_SECRET", "a secret of this benchmark alone")
    studies = make_study_archive(arguments.folder / "archive", arguments.studies, arguments.bad)
    began = time.monotonic()
    rows: list[dict[str, Any]] = []
    for name, modality in MODALITIES:
        job = job_of(arguments.folder, name, modality, arguments.steps, arguments.mode)
        run_archive(job, TerminalWatcher(make_console()))
        rows += current_rows(job.out, job.method_name, columns=None).to_pylist()
    seconds = time.monotonic() - began
    print(f"\n{len(studies)} studies, {seconds:.0f} s\n\n| status | code | rows |\n|---|---|---|")
    for (status, code), count in sorted(Counter((row["status"], row["code"] or "") for row in rows).items()):
        print(f"| {status} | {code} | {count} |")
    of_studies = rows_by_study(studies, rows, arguments.folder)
    print("\n| study | should become | became | registration | seconds |\n|---|---|---|---|---|")
    strips = []
    for study, row in zip(studies, of_studies, strict=True):
        wanted = str(study.code or "ok")
        became = str(row["code"] or row["status"])
        taken = sum(row[f"seconds_{stage}"] or 0 for stage in ("read", "register", "fuse", "measure", "publish"))
        decision = f"{row['registration_method'] or ''} {row['registration_decision'] or ''}"
        mark = "" if wanted == became else " (!)"
        print(
            f"| {study.folder.name} {study.first}-{study.second} | {wanted} | {became}{mark} | {decision} "
            f"| {taken:.1f} |"
        )
        if row["status"] == "ok" and len(strips) < SHOWN_STUDIES:
            strips.append(strip(study, row))
    width = max(one.shape[1] for one in strips)
    whole = np.concatenate([np.pad(one, ((0, 6), (0, width - one.shape[1]))) for one in strips])
    Image.fromarray(np.uint8(np.clip(whole + 1, 0, 2) * 127.5)).save(arguments.folder / "montage.png")


def rows_by_study(studies: list[SampleStudy], rows: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """The row of each study, found through the private tables, as a person would look it up."""
    files: dict[str, str] = {}
    for name, _ in MODALITIES:
        for path in (folder / "fused" / name / "_ddfm" / "private").glob("2*.parquet"):
            for source in pq.read_table(path).to_pylist():
                for uri in [*source["first_uris"], *source["second_uris"]]:
                    files[uri] = source["pair_key"]
    by_key = {row["pair_key"]: row for row in rows}
    found = []
    for study in studies:
        keys = {files[uri] for uri in files if uri.startswith(f"{study.folder}/")}
        of_study = [by_key[key] for key in keys]
        # The study's localizers and reports have rows, too.
        found.append(next(row for row in of_study if row["status"] != "skipped"))
    return found


if __name__ == "__main__":
    main()
