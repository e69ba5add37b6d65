"""Places that the tests share."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest


@pytest.fixture(params=["path", "memory"])
def dest(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A destination that does not exist yet, on disk and in memory."""
    if request.param == "path":
        yield str(tmp_path / "dest")
    else:
        uri = f"memory://{uuid.uuid4().hex}/dest"
        yield uri
        if fsspec.filesystem("memory").exists(uri):
            fsspec.filesystem("memory").rm(uri, recursive=True)


@pytest.fixture(params=["path", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A place for sources, on disk and in memory."""
    if request.param == "path":
        yield str(tmp_path / "root")
    else:
        uri = f"memory://{uuid.uuid4().hex}"
        yield uri
        if fsspec.filesystem("memory").exists(uri):
            fsspec.filesystem("memory").rm(uri, recursive=True)


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """A local folder for what a job sorts."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder
