"""What all tests share: an environment of their own, and real servers for the tests that ask for them.

Servers are started at the first test that asks and stopped at the end of the session. Nothing heavy is imported here,
so that a test of plain functions does not pay for Prefect or torch.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator

import pytest

from tests import servers

_STATE = pytest.StashKey[tuple[pytest.MonkeyPatch, str]]()


def pytest_configure(config: pytest.Config) -> None:
    """Give the session its own settings, before a test module can import Prefect or torch."""
    patch = pytest.MonkeyPatch()
    for name in list(os.environ):
        if name.startswith(("PREFECT_", "AWS_", "DDFM_")):
            patch.delenv(name)
    home = tempfile.mkdtemp(prefix="ddfm-prefect-home-")
    settings = {
        "DO_NOT_TRACK": "1",
        "PREFECT_HOME": home,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_TO_API_ENABLED": "false",
        "PREFECT_CLI_PROMPT": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        # torch takes its number of threads from here; the last bits of a result depend on it
        "OMP_NUM_THREADS": "2",
        "MKL_NUM_THREADS": "2",
    }
    for name, value in settings.items():
        patch.setenv(name, value)
    config.stash[_STATE] = patch, home


def pytest_unconfigure(config: pytest.Config) -> None:
    """Put the environment back."""
    if _STATE in config.stash:
        patch, home = config.stash[_STATE]
        patch.undo()
        shutil.rmtree(home, ignore_errors=True)


# ---- PostgreSQL and Prefect ------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The URL of an empty database of a PostgreSQL server."""
    with servers.postgres() as url:
        yield url


@pytest.fixture(scope="session")
def prefect_api_url(postgres_url: str) -> Iterator[str]:
    """The API URL of a Prefect server on PostgreSQL. This process does not use it yet: see `prefect_api`."""
    with servers.prefect_server(postgres_url) as url:
        yield url


@pytest.fixture
def prefect_api(prefect_api_url: str) -> Iterator[str]:
    """The same, and flows called in the test, and its child processes, report to it."""
    from prefect.settings import PREFECT_API_URL, PREFECT_SERVER_ALLOW_EPHEMERAL_MODE, temporary_settings

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_API_URL", prefect_api_url)
        patch.setenv("PREFECT_SERVER_EPHEMERAL_ENABLED", "false")
        with temporary_settings({PREFECT_API_URL: prefect_api_url, PREFECT_SERVER_ALLOW_EPHEMERAL_MODE: False}):
            yield prefect_api_url


@pytest.fixture(scope="session")
def prefect_pool() -> str:
    """The name of the work pool that `prefect_worker` serves."""
    return "tests"


@pytest.fixture(scope="session")
def prefect_worker(prefect_api_url: str, prefect_pool: str) -> Iterator[servers.Server]:
    """A process worker on `prefect_pool`. A test that kills its worker starts one of its own."""
    with servers.prefect_worker(prefect_api_url, prefect_pool, limit=4) as worker:
        yield worker


# ---- S3 --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def s3_server() -> Iterator[servers.S3Server]:
    """An S3 store."""
    with servers.s3_server() as server:
        yield server


@pytest.fixture
def s3_environment(s3_server: servers.S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """The variables that lead to the store, set for this process too."""
    from s3fs import S3FileSystem

    environment = s3_server.environment()
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    S3FileSystem.clear_instance_cache()  # its file systems keep the environment they were made in
    yield environment
    S3FileSystem.clear_instance_cache()


@pytest.fixture
def s3_bucket(s3_server: servers.S3Server, s3_environment: dict[str, str]) -> str:
    """The URL of a bucket of its own for the test, with the environment that leads to it."""
    return servers.create_bucket(s3_server, f"test-{uuid.uuid4().hex[:12]}")
