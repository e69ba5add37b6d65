"""``ddfm demo``: from nothing to fused pictures in a minute or two."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from flows.demo_archive import make_demo_archive
from flows.terminal import fuse_on_terminal, make_console
from tasks.codes import ConfigurationError
from tasks.job_file import make_job

_VOLUMES: Final = {"privacy": "off", "batch": 8}
ARCHIVES: Final[tuple[tuple[str, str, str, Mapping[str, object]], ...]] = (
    ("infrared_visible", "infrared", "visible", {}),
    ("ct_mri", "ct", "mri", {}),
    (
        "ct_mri_volumes", "ct", "mri",
        _VOLUMES | {"volumes": {"also_write": ["dicom", "png"], "identity": "keep"}},
    ),
    ("pet_mri_volumes", "pet", "mri", _VOLUMES | {"volumes": {"also_write": ["png"], "palette": "hot_iron"}}),
)  # fmt: skip
"""Data set, its two folders, and what its job says beside them."""


def demo(folder: Path, steps: int | None, prefect: bool) -> int:
    """Make a sample archive below ``folder``, fuse it with the bundled prior, say where to look; the exit code.

    One infrared file of the sample is broken on purpose, so that its row shows what happens to such a file; for
    that reason a demo that went well ends with 0, although ``ddfm fuse`` would answer 1. The volumes are of nobody,
    so their names are kept: real ones need a secret for their pseudonyms. Without ``steps`` it takes as many as the
    default mode does.

    Raises:
        ConfigurationError: ``folder`` holds something else already.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / "archive").is_dir():
        raise ConfigurationError(f"--out: {folder} holds other things already; name a new folder")
    console = make_console()
    # Medical libraries take a second to import, which other commands should not pay.
    from flows.samples.archives import make_volume_demo

    make_demo_archive(folder / "archive")
    make_volume_demo(folder / "archive")
    console.print(f"made a sample archive in {folder / 'archive'}; one infrared file is broken on purpose\n")
    worst = 0
    for name, first, second, more in ARCHIVES:
        source = folder / "archive" / name
        settings: dict[str, object] = {
            "first": str(source / first),
            "second": str(source / second),
            "out": str(folder / "fused" / name),
            "steps": steps,
            "dataset": name,
            "modality_first": first,
            "modality_second": second,
        }
        job = make_job({**settings, **more})
        code = fuse_on_terminal(job, prefect)
        worst = max(worst, 0 if code == 1 else code)
        console.print()
    table = folder / "fused" / ARCHIVES[0][0] / "_ddfm" / "metrics" / "current"
    console.print(
        f"Compare the pictures in {folder / 'archive'} with those in {folder / 'fused'} (of volumes: the NIfTI files, "
        "or the folders *.slices), or read a table:\n"
        f"  {sys.executable} -c \"import pandas; print(pandas.read_parquet('{table}').T)\""
    )
    return worst
