"""The main job over real data sets: rows by status, seconds per pair, means of the papers' six metrics.

    python benchmarks/real_pairs.py PAIRS OUT --steps 25 --every 5

PAIRS holds roadscene/{ir,vi}, tno/{ir,vi}, harvard_mri_ct/{ct,mri}, harvard_mri_pet/{pet,mri} and
harvard_mri_spect/{spect,mri}. Every run is `ddfm fuse` as a user calls it; the figures come from its Parquet rows.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

DATA_SETS = (
    ("roadscene", "ir", "vi"),
    ("tno", "ir", "vi"),
    ("harvard_mri_ct", "ct", "mri"),
    ("harvard_mri_pet", "pet", "mri"),
    ("harvard_mri_spect", "spect", "mri"),
)
METRICS = ("EN", "SD", "MI", "VIF", "Qabf", "SSIM")


def subset(pairs: Path, out: Path, name: str, sides: tuple[str, str], every: int) -> tuple[Path, Path]:
    """Folders of links to every n-th pair."""
    stems = {side: {path.stem: path for path in (pairs / name / side).iterdir()} for side in sides}
    chosen = sorted(stems[sides[0]].keys() & stems[sides[1]].keys())[::every]
    folders = tuple(out / "sources" / name / side for side in sides)
    for folder, side in zip(folders, sides, strict=True):
        folder.mkdir(parents=True, exist_ok=True)
        for stem in chosen:
            link = folder / stems[side][stem].name
            if not link.exists():
                link.symlink_to(stems[side][stem].resolve())
    return folders[0], folders[1]


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("pairs", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--modes", nargs="+", default=["paper", "released"])
    arguments = parser.parse_args()
    print("| data set | mode | rows | s/pair | fuse s/pair | " + " | ".join(METRICS) + " |")
    print("|" + "---|" * (5 + len(METRICS)))
    for name, first, second in DATA_SETS:
        folders = subset(arguments.pairs, arguments.out, name, (first, second), arguments.every)
        for mode in arguments.modes:
            dest = arguments.out / name / mode
            command = [sys.executable, "-m", "flows.cli", "fuse", *map(str, folders), "--out", str(dest)]
            began = time.perf_counter()
            subprocess.run(
                [*command, "--mode", mode, "--steps", str(arguments.steps), "--dataset", name, "--no-prefect"],
                check=False,
                stdout=subprocess.DEVNULL,
            )
            seconds = time.perf_counter() - began
            rows = pq.read_table(dest / "_ddfm" / "metrics" / "current")
            statuses = pc.value_counts(rows["status"]).to_pylist()
            counts = ", ".join(f"{item['counts']} {item['values']}" for item in statuses)
            means = [pc.mean(rows[metric].filter(pc.is_finite(rows[metric]))).as_py() for metric in METRICS]
            figures = " | ".join(f"{mean:.3f}" for mean in means)
            fuse = pc.mean(rows["seconds_fuse"]).as_py()
            print(f"| {name} | {mode} | {counts} | {seconds / len(rows):.2f} | {fuse:.2f} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
