"""Places that the tests share."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest


@pytest.fixture(params=["path", "memory"])
def dest(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A destination that does not exist yet, on disk and in memory."""
    yield from _place(request, tmp_path, "dest")


@pytest.fixture(params=["path", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A place for sources, which does not exist yet, on disk and in memory."""
    yield from _place(request, tmp_path, "root")


def _place(request: pytest.FixtureRequest, tmp_path: Path, name: str) -> Iterator[str]:
    if request.param == "path":
        yield str(tmp_path / name)
        return
    uri = f"memory://{uuid.uuid4().hex}/{name}"
    yield uri
    if fsspec.filesystem("memory").exists(uri):
        fsspec.filesystem("memory").rm(uri, recursive=True)


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """A local folder for what a job sorts."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where TMPDIR says."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder
