"""``ddfm demo``: from nothing to fused pictures in a minute or two."""

from __future__ import annotations

import sys
from pathlib import Path

from flows.demo_archive import make_demo_archive
from flows.terminal import fuse_on_terminal, make_console
from tasks.codes import ConfigurationError
from tasks.job import make_job

ARCHIVES = (("infrared_visible", "infrared", "visible"), ("ct_mri", "ct", "mri"))


def demo(folder: Path, steps: int, prefect: bool) -> int:
    """Make a sample archive below ``folder``, fuse it with the bundled prior, say where to look; the exit code.

    One infrared file of the sample is broken on purpose, so that its row shows what happens to such a file; for
    that reason a demo that went well ends with 0, although ``ddfm fuse`` would answer 1.

    Raises:
        ConfigurationError: ``folder`` holds something else already.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / "archive").is_dir():
        raise ConfigurationError(f"--out: {folder} holds other things already; name a new folder")
    console = make_console()
    make_demo_archive(folder / "archive")
    console.print(f"made a sample archive in {folder / 'archive'}; one infrared file is broken on purpose\n")
    worst = 0
    for name, first, second in ARCHIVES:
        source = folder / "archive" / name
        job = make_job(
            {
                "first": str(source / first),
                "second": str(source / second),
                "out": str(folder / "fused" / name),
                "steps": steps,
                "dataset": name,
                "modality_first": first,
                "modality_second": second,
            }
        )
        code = fuse_on_terminal(job, prefect)
        worst = max(worst, 0 if code == 1 else code)
        console.print()
    table = folder / "fused" / ARCHIVES[0][0] / "_ddfm" / "metrics" / "current"
    console.print(
        f"Compare the pictures in {folder / 'archive'} with those in {folder / 'fused'}, or read a table:\n"
        f"  {sys.executable} -c \"import pandas; print(pandas.read_parquet('{table}').T)\""
    )
    return worst
