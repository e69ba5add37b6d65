"""What is the same for every pair of a run, and the file config.json that keeps it."""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version

from ddfm_core.fusion import ALGORITHM_VERSION
from tasks.codes import ConfigurationError
from tasks.job import Job
from tasks.job_file import make_job
from tasks.outputs import (
    PICTURE_DEVIATION_SUFFIX,
    PICTURE_SUFFIX,
    VOLUME_DEVIATION_SUFFIX,
    VOLUME_SUFFIX,
    output_folder,
)
from tasks.run_folder import RunFolder
from tasks.storage import join, read_needed, write_atomic

PACKAGES = ("ddfm-pipeline", "torch", "numpy", "pillow", "tifffile", "imagecodecs", "pyarrow", "prefect",
            "pydicom", "highdicom", "nibabel", "simpleitk", "opencv-python-headless")  # fmt: skip


@cache
def package_version() -> str:
    """The installed version of this package; kept, because every row has it and finding it opens files."""
    return version("ddfm-pipeline")


@dataclass(frozen=True)
class RunSettings:
    """A job in one run folder, with the identity of its prior.

    Attributes:
        token: of the lock of the destination under which this process works; 0 where nothing is written.
    """

    run: RunFolder
    job: Job
    config_hash: str
    prior_sha256: str
    token: int = 0

    def output_uri(self, pair_key: str) -> str:
        """Where the fused picture or volume of a pair lies."""
        return self.beside(pair_key, VOLUME_SUFFIX if self.job.of_volumes else PICTURE_SUFFIX)

    def deviation_uri(self, pair_key: str) -> str:
        """Where the map of deviation of a pair lies, when several samples are drawn."""
        return self.beside(pair_key, VOLUME_DEVIATION_SUFFIX if self.job.of_volumes else PICTURE_DEVIATION_SUFFIX)

    def beside(self, pair_key: str, suffix: str) -> str:
        """A file or folder of a pair."""
        return join(output_folder(self.run.dest, self.job.method_name), f"{pair_key}{suffix}")

    @property
    def chunk_pairs(self) -> int:
        """Pairs that are committed together. A volume is work for minutes, and a commit of its own."""
        return 1 if self.job.of_volumes else self.job.chunk_pairs

    @property
    def private_uri(self) -> str:
        """The private table of the run."""
        return join(self.job.private_folder(self.run.dest), f"{self.run.run_id}.parquet")


def write_settings(settings: RunSettings) -> None:
    """Write config.json: the effective job, hashes and versions. Credentials are never part of a job."""
    content = {
        "run_id": settings.run.run_id,
        "job": settings.job.resolved().model_dump(mode="json", by_alias=True),
        "config_hash": settings.config_hash,
        "prior_sha256": settings.prior_sha256,
        "algorithm_version": ALGORITHM_VERSION,
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
    }
    write_atomic(settings.run.config_uri, (json.dumps(content, indent=2) + "\n").encode())


def read_settings(run: RunFolder) -> RunSettings:
    """Read config.json of a run.

    Raises:
        StorageError: the file cannot be read.
        ConfigurationError: it does not hold the settings of a run.
    """
    try:
        content = json.loads(read_needed(run.config_uri))
        return RunSettings(run, make_job(content["job"]), content["config_hash"], content["prior_sha256"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"{run.config_uri}: not the configuration of a run ({error})") from error
