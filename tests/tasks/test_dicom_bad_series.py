"""DICOM series that are not one volume, or not to be trusted: each is refused with its code."""

from __future__ import annotations

import dataclasses
import gzip
import io
import logging
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import MPEG2MPML, JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless, RLELossless

from flows.samples.dicom_files import DicomScan, DicomTroubles, PatientFacts
from flows.samples.grids import tilted
from tasks.codes import Code, PairError
from tasks.read import dicom_codecs
from tasks.volume import Flag
from tests.tasks.dicom_files import (
    SHAPE,
    Archive,
    bundled,
    element,
    encoded,
    file_of,
    grid,
    mr_elements,
    phantom,
    run_alone,
    series,
)

CANARY = "SMITHCANARY"


def refusal(archive: Archive, **options: Any) -> PairError:
    with pytest.raises(PairError) as refused:
        archive.volume(**options)
    assert refused.value.code.sentence in str(refused.value)
    return refused.value


def troubled(folder: Path, **troubles: Any) -> Archive:
    return series(folder, DicomScan("CT", troubles=DicomTroubles(**troubles)))


def test_one_slice_removed(tmp_path: Path) -> None:
    error = refusal(troubled(tmp_path, missing=(2,)))
    assert (error.code, error.detail) == (Code.MISSING_SLICES, "1 of 6, which lie 3 mm apart")


def test_one_slice_duplicated(tmp_path: Path) -> None:
    for number, trouble in enumerate(({"copied": (2,)}, {"repeated": (2, 4)})):
        volume = troubled(tmp_path / str(number), **trouble).volume()
        np.testing.assert_array_equal(volume.voxels, phantom())
        assert volume.flags == {Flag.DUPLICATES_DROPPED}
    assert refusal(troubled(tmp_path / "other", conflicting=(2,))).code is Code.DUPLICATE_CONFLICT


def test_copies_do_not_change_what_a_volume_is(tmp_path: Path) -> None:
    plain = series(tmp_path / "a").volume()
    copied = troubled(tmp_path / "b", copied=(0, 3)).volume()
    assert plain.content_sha256 == copied.content_sha256


def test_one_slice_off_by_0_05_mm(tmp_path: Path) -> None:
    volume = troubled(tmp_path / "a", shifted={2: 0.05}).volume()
    np.testing.assert_array_equal(volume.voxels, phantom())
    np.testing.assert_allclose(volume.affine, grid(), atol=0.03)
    assert refusal(troubled(tmp_path / "b", shifted={2: 0.3})).code is Code.IRREGULAR_SPACING


def test_tilt_of_0_3_degrees_is_accepted(tmp_path: Path) -> None:
    volume = series(tmp_path, affine=tilted(grid(), 0.3)).volume()
    np.testing.assert_array_equal(volume.voxels, phantom())
    # The middle of the stack is where it was, its ends are off by half of the shear.
    middle = np.array([(SHAPE[0] - 1) / 2, 0, 0, 1])
    np.testing.assert_allclose(volume.affine @ middle, tilted(grid(), 0.3) @ middle, atol=1e-4)


def test_tilt_of_5_degrees_is_refused(tmp_path: Path) -> None:
    error = refusal(series(tmp_path, affine=tilted(grid(), 5)))
    assert (error.code, error.detail) == (Code.SHEARED, "by 5.0 degrees")


def test_orientations_that_differ_by_a_millionth_are_one(tmp_path: Path) -> None:
    volume = troubled(tmp_path / "a", turned=1e-6).volume()
    np.testing.assert_array_equal(volume.voxels, phantom())
    assert refusal(troubled(tmp_path / "b", turned=1e-3)).code is Code.AMBIGUOUS_SERIES


def test_without_a_frame_of_reference_a_series_is_read_and_flagged(tmp_path: Path) -> None:
    volume = series(tmp_path, DicomScan("CT", frame_of_reference="")).volume()
    np.testing.assert_array_equal(volume.voxels, phantom())
    assert volume.frame_of_reference is None
    assert volume.flags == {Flag.NO_FRAME_OF_REFERENCE}


def test_two_series_in_a_folder_are_not_mixed(tmp_path: Path) -> None:
    series(tmp_path, DicomScan("CT", series="a", prefix="a"))
    both = series(tmp_path, DicomScan("CT", series="b", prefix="b"))
    both.files |= {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    error = refusal(both)
    assert (error.code, error.detail) == (Code.AMBIGUOUS_SERIES, "files of 2 series")


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("EchoTime", 90.0),
        ("TemporalPositionIdentifier", 2),
        ("DiffusionBValue", 1000.0),
        ("ImageType", ["ORIGINAL", "PRIMARY", "PHASE"]),
        ("PixelSpacing", [0.95, 0.7]),
        ("FrameOfReferenceUID", "1.2.3"),
        ("AcquisitionNumber", 2),
    ],
)
def test_two_volumes_in_one_series_are_told_apart(tmp_path: Path, attribute: str, value: Any) -> None:
    archive = series(tmp_path / "a", DicomScan("MR", part="1"), phantom(low=0))
    scan = DicomScan("MR", part="2", attributes={attribute: value})
    archive.files |= {f"b{name}": one for name, one in series(tmp_path / "b", scan, phantom(low=0)).files.items()}
    error = refusal(archive)
    assert error.code is Code.AMBIGUOUS_SERIES
    assert error.detail == f"2 volumes of 6, 6 slices; {attribute} differs"


def test_real_folders_inside_pydicom() -> None:
    folders = bundled("dicomdirtests", "98892001", "CT5N")
    assert folders.volume().voxels.shape == (5, 16, 16)
    scout = refusal(bundled("dicomdirtests", "77654033", "CT2"))
    assert (scout.code, scout.detail) == (Code.MISSING_SLICES, "161 of 165, which lie 1.25 mm apart")
    assert refusal(bundled("dicomdirtests", "98892001", "CT2N")).code is Code.LOCALIZER
    assert refusal(bundled("dicomdirtests", "98892003", "MR700")).code is Code.PROJECTION
    assert refusal(bundled("dicomdirtests", "98892003", "MR2")).code is Code.AMBIGUOUS_SERIES
    assert refusal(bundled("dicomdirtests", "77654033", "CR1")).code is Code.NON_IMAGE_SOP


@pytest.mark.parametrize("name", ["siemens_dwi_0.dcm.gz", "siemens_dwi_1000.dcm.gz", "0.dcm", "csa_slice_norm.dcm"])
def test_real_mosaics_are_refused(name: str) -> None:
    content = (Path(nibabel.__file__).parent / "nicom/tests/data" / name).read_bytes()
    assert refusal(Archive({"one": gzip.decompress(content) if name.endswith("gz") else content})).code is Code.MOSAIC


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("MR_truncated.dcm", Code.TRUNCATED),
        ("meta_missing_tsyntax.dcm", Code.HEADER_INCOMPLETE),
        ("no_meta.dcm", Code.NOT_DICOM),
        ("rtstruct.dcm", Code.NOT_DICOM),
        ("badVR.dcm", Code.NON_IMAGE_SOP),
        ("rtdose.dcm", Code.NON_IMAGE_SOP),
        ("rtplan_truncated.dcm", Code.NON_IMAGE_SOP),
        ("test-SR.dcm", Code.NON_IMAGE_SOP),
        ("liver_1frame.dcm", Code.NON_IMAGE_SOP),
        ("README.txt", Code.NOT_DICOM),
        ("zipMR.gz", Code.NOT_DICOM),
    ],
)
def test_bundled_files_that_are_no_slices(name: str, code: Code) -> None:
    assert refusal(bundled(name)).code is code


@pytest.mark.parametrize(
    ("attributes", "code"),
    [
        ({"ImagePositionPatient": None}, Code.NO_GEOMETRY),
        ({"ImageOrientationPatient": None}, Code.NO_GEOMETRY),
        ({"PixelSpacing": None}, Code.NO_GEOMETRY),
        ({"PixelSpacing": ["0", "0"]}, Code.NO_GEOMETRY),
        ({"ImagePositionPatient": ["1", "2", "nan"]}, Code.NO_GEOMETRY),
        ({"ImageOrientationPatient": ["1", "0", "0", "0", "0.9", "0"]}, Code.NO_GEOMETRY),
        ({"ImageOrientationPatient": ["1", "0", "0", "1", "0", "0"]}, Code.NO_GEOMETRY),
        ({"RescaleSlope": None}, Code.HEADER_INCOMPLETE),
        ({"RescaleSlope": None, "RescaleIntercept": None}, Code.HEADER_INCOMPLETE),
        ({"RescaleSlope": "0"}, Code.HEADER_INCOMPLETE),
        ({"RescaleSlope": "1e999"}, Code.HEADER_INCOMPLETE),
        ({"RescaleSlope": "1e39"}, Code.NOT_FINITE),
        ({"SeriesInstanceUID": None}, Code.HEADER_INCOMPLETE),
        ({"SeriesInstanceUID": CANARY}, Code.HEADER_INCOMPLETE),
        ({"NumberOfFrames": "3"}, Code.HEADER_INCOMPLETE),
        ({"Rows": 0}, Code.HEADER_INCOMPLETE),
        ({"Rows": 23}, None),
        ({"Rows": 48}, Code.TRUNCATED),
        ({"Rows": 12}, Code.DECODE_FAILED),
        ({"Rows": 65535, "Columns": 65535}, Code.TOO_LARGE),
        ({"BitsAllocated": 12}, Code.PIXELS_UNSUPPORTED),
        ({"HighBit": 14}, Code.PIXELS_UNSUPPORTED),
        ({"PixelRepresentation": None}, Code.HEADER_INCOMPLETE),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, Code.COLOUR_UNEXPECTED),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, Code.COLOUR_UNEXPECTED),
        ({"BurnedInAnnotation": "YES"}, Code.BURNED_IN),
        ({"ImageType": ["DERIVED", "PRIMARY", "MOSAIC"]}, Code.MOSAIC),
        ({"ImageType": ["DERIVED", "SECONDARY", "MIP"]}, Code.PROJECTION),
    ],
)
def test_what_a_header_may_not_say(tmp_path: Path, attributes: dict[str, Any], code: Code | None) -> None:
    archive = series(tmp_path, DicomScan("CT", attributes=attributes))
    if code is None:
        assert archive.volume().voxels.shape == (6, 23, 20)
    else:
        assert refusal(archive).code is code


@pytest.mark.parametrize(
    ("tag", "replacement", "code"),
    [
        (0x00280030, element(0x00280030, b"DS", b"SMITHJOH"), Code.NO_GEOMETRY),
        (0x00280030, element(0x00280030, b"DS", b"1 "), Code.NO_GEOMETRY),
        (0x00080018, b"", Code.HEADER_INCOMPLETE),
        (0x00280008, element(0x00280008, b"IS", b"1A"), Code.HEADER_INCOMPLETE),
        (0x00280008, element(0x00280008, b"IS", b"0 "), Code.HEADER_INCOMPLETE),
        (0x00280010, element(0x00280010, b"US", b"\x10\0\x10\0"), Code.HEADER_INCOMPLETE),
        (0x00200037, element(0x00200037, b"DS", b"1\\0\\0 "), Code.NO_GEOMETRY),
        (0x00280030, element(0x00280030, b"DS", b"1\\1 "), None),
    ],
)
def test_what_the_bytes_of_a_header_may_not_say(tag: int, replacement: bytes, code: Code | None) -> None:
    elements = {**mr_elements(), tag: replacement, 0x7FE00010: element(0x7FE00010, b"OW", b"\1\0" * 256)}
    content = file_of(b"".join(one for _, one in sorted(elements.items())), b"1.2.840.10008.1.2.1")
    if code is None:
        assert Archive({"one": content}).volume().voxels.max() == 1
    else:
        assert refusal(Archive({"one": content})).code is code


def test_what_a_derived_series_takes_over_may_be_damaged() -> None:
    elements = {
        **mr_elements(),
        0x00100010: element(0x00100010, b"PN", b"A^B "),
        0x00101030: element(0x00101030, b"DS", b"7O kg "),
        0x00200013: element(0x00200013, b"IS", b"1A"),
        0x7FE00010: element(0x7FE00010, b"OW", b"\1\0" * 256),
    }
    volume = Archive({"one": file_of(b"".join(one for _, one in sorted(elements.items())), b"1.2.840.10008.1.2.1")})
    origin = volume.volume().dicom
    assert origin is not None
    assert origin.header.PatientName == "A^B"
    assert "PatientWeight" not in origin.header


def test_slices_of_two_patients_are_no_series(tmp_path: Path) -> None:
    archive = series(tmp_path)
    archive.change("IM00003", {"PatientID": "OTHER"})
    assert refusal(archive).code is Code.PATIENT_MISMATCH


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLosslessSV1, JPEG2000Lossless, JPEGLSLossless])
@pytest.mark.parametrize("cut", [-1, -20, 0.9, 0.7])
def test_compressed_pixels_that_end_early(tmp_path: Path, syntax: Any, cut: float) -> None:
    archive = series(tmp_path, DicomScan("CT", transfer_syntax=syntax))
    content = archive.files["IM00002"]
    archive.files["IM00002"] = content[: int(cut) if cut < 0 else int(len(content) * cut)]
    assert refusal(archive).code is Code.TRUNCATED


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLosslessSV1, JPEG2000Lossless])
def test_damaged_compressed_pixels_raise_nothing_but_pair_errors(tmp_path: Path, syntax: Any) -> None:
    archive = series(tmp_path, DicomScan("CT", transfer_syntax=syntax))
    content = archive.files["IM00002"]
    generator = np.random.default_rng(3)
    codes = set()
    for _ in range(40):
        damaged = bytearray(content)
        for place in generator.integers(content.index(b"\xe0\x7f\x10\0") + 12, len(content), 6):
            damaged[place] = generator.integers(256)
        archive.files["IM00002"] = bytes(damaged)
        try:
            archive.volume()
        except PairError as error:
            codes.add(error.code)
    assert codes <= {Code.DECODE_FAILED, Code.TRUNCATED, Code.HEADER_INCOMPLETE}


def test_rle_with_more_frames_than_it_has_stays_a_pair_error(tmp_path: Path) -> None:
    archive = series(tmp_path, DicomScan("CT", transfer_syntax=RLELossless), phantom((1, 24, 20)))
    archive.change("IM00000", {"Rows": 48})
    assert refusal(archive).code is Code.DECODE_FAILED


def test_a_missing_codec_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    native = next(iter(series(tmp_path / "a", voxels=phantom((1, 24, 20))).files.values()))
    film = dcmread(io.BytesIO(native))
    film.PixelData = encapsulate([film.PixelData])
    film.file_meta.TransferSyntaxUID = MPEG2MPML
    error = refusal(Archive({"one": encoded(film)}))
    assert error.code is Code.CODEC_MISSING
    assert error.detail.startswith("MPEG2 Main Profile / Main Level: ")

    # What no standard names is not quoted, it could be any text.
    error = refusal(Archive({"one": native.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.99999.7.7.7\0")}))
    assert error.code is Code.CODEC_MISSING
    assert "99999" not in error.detail

    archive = series(tmp_path / "b", DicomScan("CT", transfer_syntax=JPEGLSLossless), phantom((1, 24, 20)))
    codec = dicom_codecs.CODECS[JPEGLSLossless]
    monkeypatch.setitem(dicom_codecs.CODECS, JPEGLSLossless, dataclasses.replace(codec, available=False))
    error = refusal(archive)
    assert error.code is Code.CODEC_MISSING
    assert error.detail == "JPEG-LS Lossless Image Compression: pip install --force-reinstall imagecodecs"


_DAMAGE = """
import imagecodecs
import numpy as np
from tasks.codes import PairError
from tasks.read.dicom_codecs import FrameFormat, decode_frame

generator = np.random.default_rng(5)
pixels = (np.arange(64 * 64).reshape(64, 64) // 3 + generator.integers(0, 50, (64, 64))).astype(np.uint16)
streams = {
    "1.2.840.10008.1.2.4.51": imagecodecs.jpeg8_encode(pixels, bitspersample=12, level=90),
    "1.2.840.10008.1.2.4.70": imagecodecs.ljpeg_encode(pixels),
    "1.2.840.10008.1.2.4.80": imagecodecs.jpegls_encode(pixels),
    "1.2.840.10008.1.2.4.90": imagecodecs.jpeg2k_encode(pixels, codecformat="j2k", reversible=True),
    "1.2.840.10008.1.2.4.201": imagecodecs.htj2k_encode(pixels, reversible=True),
}
for syntax, stream in streams.items():
    for attempt in range(100):
        damaged = bytearray(stream)
        for place in generator.integers(0, len(stream), 4):
            damaged[place] = generator.integers(256)
        if attempt % 4 == 0:
            damaged = damaged[: generator.integers(len(stream))]
        try:
            decode_frame(bytes(damaged), syntax, FrameFormat(64, 64, 16, 16, False))
            print("read")
        except PairError as error:
            print(error.code)
print("alive")
"""


def test_damaged_streams_of_any_codec_do_not_end_the_process() -> None:
    lines = run_alone(_DAMAGE).splitlines()
    assert lines[-1] == "alive"
    assert set(lines[:-1]) == {"read", "decode_failed", "truncated"}


def test_jpeg_of_12_bits_is_read() -> None:
    dataset = dcmread(next(iter(bundled("JPGExtended.dcm").files)))
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
    dataset.ImageType = ["ORIGINAL", "PRIMARY"]
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing, dataset.SliceThickness = [1, 1], 1
    volume = Archive({"one": encoded(dataset)}).volume()
    assert 255 < volume.voxels.max() < 4096
    assert Flag.LOSSY_SOURCE in volume.flags


@pytest.mark.parametrize(
    "spoil",
    [
        lambda archive: archive.files.update({"IM00002": archive.files["IM00002"][:-300]}),
        lambda archive: archive.files.pop("IM00002"),
        lambda archive: archive.change("IM00002", {"PatientID": f"{CANARY}2"}),
        lambda archive: archive.change("IM00002", {"PixelSpacing": None}),
        lambda archive: archive.change("IM00002", {"SeriesInstanceUID": "1.2.3"}),
        lambda archive: archive.change("IM00002", {"ImageType": [CANARY, "PRIMARY"]}),
        lambda archive: archive.files.update({"IM00002": CANARY.encode() * 100}),
    ],
)
def test_messages_and_logs_never_quote_a_file(
    tmp_path: Path,
    spoil: Callable[[Archive], object],
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    patient = PatientFacts(CANARY, CANARY, CANARY, text=CANARY)
    archive = series(tmp_path, DicomScan("CT", patient))
    for name in list(archive.files):
        # Values that pydicom complains of, with their text.
        archive.change(name, {"SpecificCharacterSet": CANARY})
    spoil(archive)
    with caplog.at_level(logging.DEBUG):
        error = refusal(archive)
    cause: BaseException | None = error
    texts = [caplog.text, *capfd.readouterr()]
    while cause is not None:
        texts.append(f"{cause!r} {cause}")
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    for text in texts:
        assert CANARY not in text
        assert not re.search(r"\d\.\d+\.\d+\.\d+", text)


_QUOTES = """
import io, sys
from pathlib import Path
from pydicom import dcmread
from flows.samples.dicom_files import DicomScan, PatientFacts
from tests.tasks.dicom_files import encoded, series

name = "SMITHCANARY"
archive = series(Path(sys.argv[1]), DicomScan("CT", PatientFacts(name, name, name, text=name)))
for file, content in archive.files.items():
    archive.files[file] = content.replace(b"ISO_IR 192", b"SMITHCANAR").replace(b"20200102", b"SMITHCAN")
print("ready", file=sys.stderr, flush=True)
archive.volume()
"""


def test_warnings_never_quote_a_file(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", _QUOTES, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "SMITH" not in done.stderr.split("ready\n")[-1]
