"""NIfTI files computed from voxels: good ones, and ones with every trouble that headers are known for.

Header fields are set one by one and never by a library's choice, so that a file can say what no library would write.
Source: nifti1.h and nifti2.h of the NIfTI Data Format Working Group.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.nifti1 import Nifti1Extension, Nifti1Header
from nibabel.nifti2 import Nifti2Header
from numpy.typing import NDArray


@dataclass(frozen=True)
class NiftiFile:
    """How voxels are written.

    Attributes:
        version: 1 or 2.
        kind: the name of NumPy's type in which values are stored, such as float32, int16, uint8.
        big_endian: the byte order of header and data.
        scaling: (slope, intercept): stored = (value - intercept) / slope. None: values are stored as they are.
        slope_field: what scl_slope says instead, such as 0 or NaN (no scaling, by the standard).
        sform_code, qform_code: 0 says that the affine of that form is not there; both 0: no orientation.
        sform: [4, 4] written instead of the affine: another one conflicts with qform, a singular one or NaN is broken.
        qform: [4, 4], orthogonal, written instead of the affine.
        units: mm, micron or unknown.
        text: put into descrip, aux_file, db_name, intent_name and a comment extension.
        kept: the share of the file's bytes that is there; below 1 the file is truncated.
    """

    version: int = 1
    kind: str = "float32"
    big_endian: bool = False
    scaling: tuple[float, float] | None = None
    slope_field: float | None = None
    sform_code: int = 1
    qform_code: int = 1
    sform: NDArray[np.float64] | None = None
    qform: NDArray[np.float64] | None = None
    units: str = "mm"
    text: str = ""
    kept: float = 1.0


def write_nifti(
    path: Path, voxels: NDArray[np.float32], affine: NDArray[np.float64], file: NiftiFile | None = None
) -> Path:
    """Write ``path``, compressed where its name ends in .gz; its folder is made if missing.

    Args:
        path: ends in .nii or .nii.gz.
        voxels: [i, j, k], or more axes for a file of several volumes.
        affine: [4, 4], indices to RAS mm, in any order and direction of axes; without shear unless qform_code is 0.
        file: how; None: float32, both forms, mm.
    """
    file = file or NiftiFile()
    headers: dict[int, Any] = {1: Nifti1Header, 2: Nifti2Header}
    header = headers[file.version](endianness=">" if file.big_endian else "<")
    kind = np.dtype(file.kind)
    header.set_data_dtype(kind)
    header.set_data_shape(voxels.shape)
    header.set_xyzt_units(file.units)
    header.set_qform(affine if file.qform is None else file.qform, code=file.qform_code)
    header["sform_code"] = file.sform_code
    if file.sform_code:
        for name, row in zip(
            ("srow_x", "srow_y", "srow_z"), affine if file.sform is None else file.sform, strict=False
        ):
            header[name] = row
    slope, intercept = file.scaling or (1.0, 0.0)
    header["scl_slope"] = slope if file.slope_field is None else file.slope_field
    header["scl_inter"] = intercept
    if file.text:
        for name in ("descrip", "aux_file", "db_name", "intent_name"):
            if name in header:
                header[name] = file.text.encode()
        header.extensions.append(Nifti1Extension("comment", file.text.encode()))
    stored = voxels if file.scaling is None else (voxels.astype(np.float64) - intercept) / slope
    if kind.kind in "iu":
        stored = np.rint(stored).clip(np.iinfo(kind).min, np.iinfo(kind).max)
    content = BytesIO()
    header["magic"] = header.single_magic
    header["vox_offset"] = header.single_vox_offset + header.extensions.get_sizeondisk()
    header.write_to(content)
    content.write(b"\0" * (int(header["vox_offset"]) - content.tell()))
    content.write(stored.astype(kind.newbyteorder(">" if file.big_endian else "<")).tobytes(order="F"))
    data = content.getvalue()
    if path.suffix == ".gz":
        data = gzip.compress(data, compresslevel=4, mtime=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data[: round(len(data) * file.kept)])
    return path
