"""Small archives for tests, and ways to run them."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def write_picture(path: Path, seed: int, size: tuple[int, int] = (32, 32), colour: bool = False) -> None:
    """A smooth random picture; ``size`` is (width, height)."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (4, 4, 3) if colour else (4, 4), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path)


def make_archive(root: Path, pairs: int, size: tuple[int, int] = (32, 32)) -> Path:
    """``root``/ir (grey) and ``root``/vi (colour) with pictures 000.png, 001.png, ..."""
    for number in range(pairs):
        write_picture(root / "ir" / f"{number:03}.png", 2 * number, size)
        write_picture(root / "vi" / f"{number:03}.png", 2 * number + 1, size, colour=True)
    return root


def put_archive(client: Any, bucket: str, pairs: int, size: tuple[int, int]) -> None:
    """Smooth random pictures in a bucket: ir/0000.png (grey), vi/0000.png (colour), and so on."""
    generator = np.random.default_rng(0)
    for side, shape in (("ir", (5, 5)), ("vi", (5, 5, 3))):
        for number in range(pairs):
            coarse = Image.fromarray(generator.integers(0, 256, shape, dtype=np.uint8))
            content = io.BytesIO()
            coarse.resize(size, Image.Resampling.BICUBIC).save(content, "PNG")
            client.put_object(Bucket=bucket, Key=f"{side}/{number:04}.png", Body=content.getvalue())


def job_settings(root: Path, **changes: object) -> dict[str, object]:
    """A quick job over :func:`make_archive`."""
    settings = {"first": f"{root}/ir", "second": f"{root}/vi", "out": f"{root}/out", "steps": 2, "chunk_pairs": 2}
    return settings | changes


def ddfm(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    """Run the command as a user would."""
    command = [sys.executable, "-m", "flows.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, **options)  # type: ignore[call-overload]


def pictures(folder: Path) -> dict[str, str]:
    """Relative path to SHA-256 of each file below ``folder``."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
