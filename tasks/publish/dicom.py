"""Fused volumes to derived DICOM series: MR or CT Image Storage, one object per slice.

Attributes are set one by one or copied by an allow-list, never a whole data set. Identifiers are new and derived from
the pair and its configuration, so that a repetition writes the same bytes to the same place; positions are computed
from the affine. Pixels are 16-bit levels over the volume's own range, with Rescale Slope and Intercept back to the
fixed volume's unit, which for CT is HU; in MR images these two are a standard extension. How the source was scanned
no longer holds and is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.uid import (
    UID,
    CTImageStorage,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    LegacyConvertedEnhancedCTImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    MRImageStorage,
)

from tasks.codes import Code, PairError
from tasks.publish.derivation import DerivationFacts, Identity, Uids
from tasks.publish.dicom_levels import levels_of
from tasks.publish.dicom_modules import (
    set_grid,
    set_lossy,
    set_patient_and_study,
    set_pixel_description,
    set_series,
    set_series_references,
    set_slice,
)
from tasks.volume import DicomOrigin

_SINGLE_FRAME: Final[Mapping[str, UID]] = {
    CTImageStorage: CTImageStorage,
    EnhancedCTImageStorage: CTImageStorage,
    LegacyConvertedEnhancedCTImageStorage: CTImageStorage,
    MRImageStorage: MRImageStorage,
    EnhancedMRImageStorage: MRImageStorage,
    LegacyConvertedEnhancedMRImageStorage: MRImageStorage,
}
_CHARACTER_SET: Final = "ISO_IR 192"


def can_be_derived(origin: DicomOrigin | None) -> bool:
    """Whether a derived series can be written: of a CT or MR with its study, single-frame or enhanced."""
    if origin is None or not origin.header.get("StudyInstanceUID"):
        return False
    classes = {_SINGLE_FRAME.get(one.sop_class_uid) for one in origin.slices}
    return len(classes) == 1 and None not in classes


def derived_series(
    voxels: NDArray[np.float32],
    affine: NDArray[np.float64],
    origin: DicomOrigin,
    *,
    identity: Identity,
    facts: DerivationFacts,
) -> Iterator[tuple[str, bytes]]:
    """The files of a derived series, one after another: name and content, explicit VR little endian.

    A value read back is within half a step of the one given; the step is a 65535th of the volume's range.

    Args:
        voxels: [slice, row, column] in the fixed volume's unit, HU for CT, in the order of ``origin.slices``.
        affine: [4, 4] from (slice, row, column) to millimetres in RAS+ axes; rows and columns at right angles.
        origin: of the fixed volume.
        identity: whose series it says it is.
        facts: how the volume came to be.

    Raises:
        PairError: RESTACK_INCOMPLETE (not as many slices as the source), FUSION_FAILED (a value is not finite).
        ValueError: :func:`can_be_derived` says no.
    """
    if not can_be_derived(origin):
        raise ValueError("a derived series needs a fixed volume of CT or MR Image Storage with its study")
    if voxels.ndim != 3 or len(voxels) != len(origin.slices):
        raise PairError(Code.RESTACK_INCOMPLETE, f"{len(voxels)} slices of {len(origin.slices)}")
    uids = Uids(facts.key, None if identity == "keep" else identity.uid_key)
    levels = levels_of(voxels)
    common = Dataset()
    common.SpecificCharacterSet = _CHARACTER_SET
    common.SOPClassUID = _SINGLE_FRAME[origin.slices[0].sop_class_uid]
    set_patient_and_study(common, origin.header, identity, uids)
    set_series(common, identity, facts, uids)
    set_lossy(common, origin, facts)
    set_grid(common, voxels.shape, affine, origin.header)
    set_pixel_description(common, facts, levels)
    set_series_references(common, origin, facts, uids)
    # Encoded once: with hundreds of references it takes longer than all the rest of a slice.
    shared = _encoded_elements(common)

    def file_of(index: int) -> bytes:
        own = Dataset()
        set_slice(own, index, affine, origin, uids)
        own.add_new("PixelData", "OW", levels.of(voxels[index]).tobytes())
        elements = shared | _encoded_elements(own)
        body = b"".join(elements[tag] for tag in sorted(elements))
        return _beginning(common.SOPClassUID, own.SOPInstanceUID) + body

    return ((f"{index + 1:04d}.dcm", file_of(index)) for index in range(len(voxels)))


def _encoded_elements(dataset: Dataset) -> dict[int, bytes]:
    """The bytes of each element by its tag, explicit VR little endian."""
    encoded = {}
    for element in dataset:
        alone = Dataset()
        alone.add(element)
        file = _explicit_little_endian()
        write_dataset(file, alone, _CHARACTER_SET)
        encoded[int(element.tag)] = file.getvalue()
    return encoded


def _beginning(sop_class_uid: UID, sop_instance_uid: UID) -> bytes:
    """Preamble, prefix and File Meta Information (PS3.10 7.1)."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = sop_class_uid
    meta.MediaStorageSOPInstanceUID = sop_instance_uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = _explicit_little_endian()
    write_file_meta_info(file, meta, enforce_standard=True)
    return bytes(128) + b"DICM" + file.getvalue()


def _explicit_little_endian() -> DicomBytesIO:
    file = DicomBytesIO()
    file.is_implicit_VR = False
    file.is_little_endian = True
    return file
