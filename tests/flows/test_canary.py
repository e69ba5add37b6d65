"""A name that stands in every text attribute and path of an archive comes out nowhere, whatever fails."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from flows.samples.canary import CanaryArchive, make_canary_archive
from tasks.current import current_rows

NAME = "SMITHCANARY"

# Runs a job with all logs on; in the stages that are named, the first call raises an error that quotes the name.
DRIVER = """
import json, logging, sys
from flows.cli import main
import tasks.archive, tasks.chunk, tasks.fuse, tasks.volume_output, tasks.volume_pair, tasks.volume_index.headers
from tasks.storage import StorageError

logging.basicConfig(level=logging.DEBUG)
NAME = sys.argv[1]
STAGES = {
    "index": (tasks.volume_index.headers, "list_files", StorageError(f"/x/{NAME}", NAME, "check")),
    "list": (tasks.volume_index.headers, "parse_header", KeyError(NAME)),
    "read": (tasks.volume_pair, "read_volume", OSError(2, "no such file", f"/x/{NAME}/1.dcm")),
    "register": (tasks.volume_pair, "register_volumes", RuntimeError(NAME)),
    "normalise": (tasks.volume_pair, "normalise_volume", ValueError(NAME)),
    "fuse": (tasks.fuse, "fuse", RuntimeError(NAME)),
    "measure": (tasks.volume_output, "measure", ZeroDivisionError(NAME)),
    "publish": (tasks.volume_output, "encode_nifti", UnicodeDecodeError("utf-8", NAME.encode(), 0, 1, NAME)),
}
def once(right, error):
    calls = []
    def failing(*arguments, **options):
        calls.append(1)
        # The core is tried again for each slice of a batch that failed.
        if len(calls) == 1 or (isinstance(error, RuntimeError) and right.__name__ == "fuse" and len(calls) < 99):
            raise error
        return right(*arguments, **options)
    return failing

for stage in sys.argv[3].split():
    module, name, error = STAGES[stage]
    setattr(module, name, once(getattr(module, name), error))
sys.exit(main(["fuse", "--config", sys.argv[2], *sys.argv[4:]]))
"""


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> CanaryArchive:
    return make_canary_archive(tmp_path_factory.mktemp("canary"), NAME)


class Place:
    """A destination, and all that a process may write beside it."""

    def __init__(self, folder: Path, archive: CanaryArchive) -> None:
        self.folder = folder
        self.archive = archive
        self.dest = folder / "dest"
        for name in ("prefect", "scratch", "home", "logs"):
            (folder / name).mkdir(parents=True)

    def run(self, number: int, job: dict[str, Any], stages: str, *options: str) -> subprocess.CompletedProcess[str]:
        """Fuse in a process of its own; what it says is kept."""
        config = self.folder / f"job-{number}.yaml"
        config.write_text(json.dumps(job | {"out": str(self.dest), "steps": 1}))
        environment = os.environ | {
            "DDFM_PSEUDONYM_SECRET": "0123456789abcdef",
            "PREFECT_HOME": str(self.folder / "prefect"),
            "TMPDIR": str(self.folder / "scratch"),
            "HOME": str(self.folder / "home"),
            "PREFECT_LOGGING_LEVEL": "DEBUG",
            "PREFECT_LOGGING_TO_API_ENABLED": "true",
            "OMP_NUM_THREADS": "1",
        }
        answer = subprocess.run(
            [sys.executable, "-c", DRIVER, NAME, str(config), stages, *options],
            env=environment, capture_output=True, text=True, timeout=280,
        )  # fmt: skip
        (self.folder / "logs" / f"{number}.txt").write_text(answer.stdout + answer.stderr)
        assert "--no-prefect" not in options or "Traceback" not in answer.stderr, answer.stderr
        return answer

    def leaks(self) -> list[str]:
        """Where a secret of the archive is found, in names or contents, outside of the private table."""
        found = []
        for path in self.folder.rglob("*"):
            if "private" in path.parts or path.name.startswith("job-"):
                continue
            content = str(path.relative_to(self.folder)).encode()
            if path.is_file():
                content += path.read_bytes()
                if path.suffix == ".gz":
                    content += gzip.decompress(path.read_bytes())
                if path.suffix == ".parquet":
                    content += str(pq.read_table(path).to_pylist()).encode()
            found += [f"{path}: {secret}" for secret in self.archive.secrets if secret.encode() in content]
        return found


def test_no_name_comes_out_of_a_run_as_a_flow(tmp_path, archive):
    place = Place(tmp_path, archive)
    job = {"archive": str(archive.dicom), "modality_first": "CT", "modality_second": "MR"}
    job |= {"volumes": {"also_write": ["dicom", "png"]}}
    failed = place.run(0, job, "index")
    assert failed.returncode == 3
    assert str(archive.dicom) in failed.stderr
    place.run(1, job, "read fuse")
    rows = current_rows(str(place.dest), columns=None).to_pylist()
    codes = [row["code"] for row in rows if row["code"]]
    assert {"internal_error", "fusion_failed", "missing_slices", "truncated"} <= set(codes)
    place.run(2, job, "", "--no-prefect")
    rows = current_rows(str(place.dest), columns=None).to_pylist()
    assert sum(row["status"] == "ok" for row in rows) >= 2
    assert list(place.dest.rglob("*.dcm"))
    assert (tmp_path / "prefect" / "prefect.db").stat().st_size > 0
    assert place.leaks() == []


def test_no_name_comes_out_of_any_stage_that_fails(tmp_path, archive):
    place = Place(tmp_path, archive)
    folders = {"first": str(archive.nifti_first), "second": str(archive.nifti_second), "register": "none"}
    folders |= {"modality_first": "PET", "modality_second": "MR"}
    for number, stage in enumerate(("read register", "normalise fuse", "measure publish", "")):
        place.run(number, folders | {"retry": ["failed", "rejected"]}, stage, "--no-prefect")
        rows = current_rows(str(place.dest), columns=None).to_pylist()
        failed = [row for row in rows if row["status"] == "failed"]
        assert bool(failed) == bool(stage), rows
    table = {"pairs": str(archive.table), "method": "table"}
    place.run(8, table, "list", "--no-prefect")
    place.run(9, table, "", "--no-prefect")
    rows = current_rows(str(place.dest), "table", columns=None).to_pylist()
    assert [row["code"] for row in rows] == ["patient_mismatch"]
    assert place.leaks() == []
