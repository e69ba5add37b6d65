"""DICOM series in memory for the tests of their readers: a phantom, its files as bytes, and files built by hand."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.data import get_testdata_file

from flows.samples.dicom_files import DicomScan, write_dicom_series
from flows.samples.grids import rigid_motion, slices_grid
from tasks.read.dicom import read_dicom_volume
from tasks.volume import Volume, VolumeLimits

LIMITS = VolumeLimits()
SHAPE = (6, 24, 20)
BUNDLED = Path(str(get_testdata_file("CT_small.dcm", download=False))).parent


def phantom(shape: tuple[int, int, int] = SHAPE, low: float = -1000, high: float = 2000) -> NDArray[np.float32]:
    """Whole numbers without any symmetry."""
    values = np.random.default_rng(1).integers(int(low), int(high), shape)
    return values.astype(np.float32)


def grid(shape: tuple[int, int, int] = SHAPE, *, oblique: bool = False, plane: str = "axial") -> NDArray[np.float64]:
    turn = rigid_motion((1, 2, 0.5), 17) if oblique else None
    return slices_grid(shape, (3.0, 0.9, 0.7), (12.5, -33.0, 71.0), turn, plane)


@dataclass
class Archive:
    """Files by name, and how often each was read."""

    files: dict[str, bytes]

    def volume(self, limits: VolumeLimits = LIMITS, **options: Any) -> Volume:
        return read_dicom_volume(list(self.files), self.files.__getitem__, limits, **options)

    def change(self, name: str, values: Mapping[str, Any]) -> None:
        """Set attributes of one file; None removes."""
        dataset = dcmread(io.BytesIO(self.files[name]))
        for keyword, value in values.items():
            if value is None:
                if keyword in dataset:
                    delattr(dataset, keyword)
            else:
                setattr(dataset, keyword, value)
        self.files[name] = encoded(dataset)


def series(
    folder: Path,
    scan: DicomScan | None = None,
    voxels: NDArray[np.float32] | None = None,
    affine: NDArray[np.float64] | None = None,
) -> Archive:
    voxels = phantom() if voxels is None else voxels
    affine = grid(voxels.shape) if affine is None else affine  # type: ignore[arg-type]
    paths = write_dicom_series(folder, voxels, affine, scan or DicomScan("CT"))
    return Archive({str(path.relative_to(folder)): path.read_bytes() for path in paths})


def bundled(*parts: str) -> Archive:
    """A file or folder inside pydicom's wheel."""
    place = BUNDLED.joinpath(*parts)
    paths = sorted(place.iterdir()) if place.is_dir() else [place]
    return Archive({str(path): path.read_bytes() for path in paths})


def encoded(dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def element(tag: int, vr: bytes, value: bytes, length: int | None = None) -> bytes:
    """One data element, explicit VR little endian."""
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr)
    size = len(value) if length is None else length
    long = vr in (b"OB", b"OW", b"SQ", b"UN")
    return head + (b"\0\0" + struct.pack("<L", size) if long else struct.pack("<H", size)) + value


def file_of(body: bytes, transfer_syntax: bytes, sop_class: bytes = b"1.2.840.10008.5.1.4.1.1.4") -> bytes:
    """A DICOM file with this body, already encoded as the transfer syntax says."""
    padded = [uid + b"\0" * (len(uid) % 2) for uid in (sop_class, transfer_syntax)]
    meta = element(0x00020002, b"UI", padded[0]) + element(0x00020010, b"UI", padded[1])
    return b"\0" * 128 + b"DICM" + element(0x00020000, b"UL", struct.pack("<L", len(meta))) + meta + body


def mr_elements(rows: int = 16, columns: int = 16) -> dict[int, bytes]:
    """The encoded elements of a small MR slice without its pixels, by tag."""

    def text(tag: int, vr: bytes, value: bytes) -> tuple[int, bytes]:
        fill = b"\0" if vr == b"UI" else b" "
        return tag, element(tag, vr, value + fill * (len(value) % 2))

    def short(tag: int, value: int) -> tuple[int, bytes]:
        return tag, element(tag, b"US", struct.pack("<H", value))

    return dict(
        [
            text(0x00080008, b"CS", b"ORIGINAL\\PRIMARY"),
            text(0x00080016, b"UI", b"1.2.840.10008.5.1.4.1.1.4"),
            text(0x00080018, b"UI", b"1.2.3.4"),
            text(0x00080060, b"CS", b"MR"),
            text(0x00180050, b"DS", b"2"),
            text(0x0020000D, b"UI", b"1.2.3.1"),
            text(0x0020000E, b"UI", b"1.2.3.2"),
            text(0x00200032, b"DS", b"0\\0\\0"),
            text(0x00200037, b"DS", b"1\\0\\0\\0\\1\\0"),
            short(0x00280002, 1),
            text(0x00280004, b"CS", b"MONOCHROME2"),
            short(0x00280010, rows),
            short(0x00280011, columns),
            text(0x00280030, b"DS", b"1\\1"),
            short(0x00280100, 16),
            short(0x00280101, 16),
            short(0x00280102, 15),
            short(0x00280103, 0),
        ]
    )


def deflated_zeros(mebibytes: int) -> bytes:
    """Raw deflate blocks that inflate to zeros, and may be followed by others."""
    squeezer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    one = squeezer.compress(b"\0" * (1 << 20)) + squeezer.flush(zlib.Z_FULL_FLUSH)
    return one * mebibytes


def deflated(data: bytes, *, last: bool) -> bytes:
    squeezer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return squeezer.compress(data) + squeezer.flush(zlib.Z_FINISH if last else zlib.Z_FULL_FLUSH)


def nested(depth: int, *, explicit: bool, tag: int = 0x00081140) -> bytes:
    """A sequence in a sequence, ``depth`` deep, with lengths or with delimiters."""
    item, item_end, sequence_end = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD

    def mark(what: int, length: int) -> bytes:
        return struct.pack("<HHL", what >> 16, what & 0xFFFF, length)

    if explicit:
        value = b""
        for _ in range(depth):
            value = element(tag, b"SQ", mark(item, len(value)) + value)
        return value
    opening = element(tag, b"SQ", b"", 0xFFFFFFFF) + mark(item, 0xFFFFFFFF)
    closing = mark(item_end, 0) + mark(sequence_end, 0)
    return opening * depth + closing * depth


def run_alone(script: str) -> str:
    """What a script prints in a process of its own, which must end well."""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
