"""Reference data that lies beside the checkout, in ../shared."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "shared"


def shared(path: str) -> Path:
    """A file or folder below ../shared; without that folder the test is skipped, or fails where CI=true."""
    if not ROOT.is_dir():
        reason = f"the reference data folder {ROOT} is absent"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    found = ROOT / path
    if not found.exists():
        pytest.fail(f"{found} is absent")
    return found
