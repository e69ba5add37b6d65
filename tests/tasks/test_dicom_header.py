"""The header of one DICOM file: from its first bytes, and from files that mean harm."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian

from flows.samples.dicom_files import DicomScan, write_report
from tasks.codes import Code, PairError
from tasks.read.dicom_header import HeaderCut, HeaderRefused, InstanceHeader, is_dicom, parse_header
from tasks.volume import VolumeLimits
from tests.tasks.dicom_files import BUNDLED, LIMITS, deflated, element, file_of, mr_elements, run_alone, series

NATIVE = b"1.2.840.10008.1.2.1"
DEFLATED = b"1.2.840.10008.1.2.1.99"


def whole(content: bytes) -> InstanceHeader:
    return parse_header(content, whole=True, limits=LIMITS)


def test_a_header_says_what_grouping_needs(tmp_path: Path) -> None:
    scan = DicomScan("MR", attributes={"EchoTime": 4.6, "DiffusionBValue": 1000.0, "ImageType": ["ORIGINAL", "OTHER"]})
    header = whole(next(iter(series(tmp_path, scan).files.values())))
    assert (header.modality, header.rows, header.columns, header.number_of_frames) == ("MR", 24, 20, 1)
    assert (header.echo_time, header.b_value, header.image_type) == (4.6, 1000.0, "ORIGINAL\\OTHER")
    assert header.orientation == pytest.approx((1, 0, 0, 0, 1, 0))
    assert header.pixel_spacing == pytest.approx((0.9, 0.7))
    assert header.study_uid == scan.study_uid
    assert header.frame_of_reference == scan.frame_uid
    for field in dataclasses.fields(header):
        value = getattr(header, field.name)
        assert type(value) in (str, int, float, tuple, type(None)), field.name


@pytest.mark.parametrize("syntax", [None, DeflatedExplicitVRLittleEndian])
def test_first_bytes_give_the_header_or_ask_for_more(tmp_path: Path, syntax: str | None) -> None:
    scan = DicomScan("CT") if syntax is None else DicomScan("CT", transfer_syntax=syntax)  # type: ignore[arg-type]
    content = next(iter(series(tmp_path, scan).files.values()))
    expected = whole(content)
    outcomes: set[str] = set()
    for cut in range(0, len(content), 7):
        try:
            header = parse_header(content[:cut], whole=False, limits=LIMITS)
        except HeaderCut:
            outcomes.add("cut")
            assert cut < 2000
        except PairError as error:
            outcomes.add(error.code)
            assert cut < 132
        else:
            outcomes.add("header")
            assert header == expected
    assert outcomes == {Code.NOT_DICOM, "cut", "header"}


def test_bundled_headers_are_the_same_from_their_first_64_kib() -> None:
    seen = 0
    for path in BUNDLED.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        if len(content) <= 1 << 16 or not is_dicom(content):
            continue
        seen += 1
        try:
            expected: object = whole(content)
        except PairError as error:
            expected = error.code
        try:
            outcome: object = parse_header(content[: 1 << 16], whole=False, limits=LIMITS)
        except PairError as error:
            outcome = error.code
        except HeaderCut:
            continue
        assert outcome == expected, path.name
    assert seen > 5


def test_a_refused_file_names_its_series(tmp_path: Path) -> None:
    scan = DicomScan("CT", attributes={"BurnedInAnnotation": "YES"})
    for content, code, series_uid in (
        (next(iter(series(tmp_path, scan).files.values())), Code.BURNED_IN, scan.series_uid),
        (write_report(tmp_path / "sr", scan).read_bytes(), Code.NON_IMAGE_SOP, scan.uid("report series", scan.study)),
    ):
        with pytest.raises(HeaderRefused) as refused:
            whole(content)
        assert refused.value.code is code
        assert (refused.value.study_uid, refused.value.series_uid) == (scan.study_uid, series_uid)


def test_a_dicomdir_is_told_by_its_class() -> None:
    paths = [path for path in BUNDLED.rglob("DICOMDIR*") if path.is_file()]
    assert len(paths) > 4
    for path in paths:
        content = path.read_bytes()
        for count in (len(content), 2000):
            with pytest.raises(PairError) as refused:
                parse_header(content[:count], whole=count >= len(content), limits=LIMITS)
            assert refused.value.code is Code.DICOMDIR


@pytest.mark.parametrize("content", [b"", b"DICM", b"\0" * 128 + b"DICM", b"\0" * 128 + b"DICM\2\0\x10\0UI\x14"])
def test_stubs_are_refused(content: bytes) -> None:
    with pytest.raises(PairError) as refused:
        whole(content)
    assert refused.value.code in (Code.NOT_DICOM, Code.HEADER_INCOMPLETE, Code.TRUNCATED)


def test_a_deflated_file_without_end_is_truncated() -> None:
    body = b"".join(mr_elements().values())
    for content in (deflated(body, last=False), deflated(body, last=True)[:-20]):
        with pytest.raises(PairError) as refused:
            whole(file_of(content, DEFLATED))
        assert refused.value.code is Code.TRUNCATED
    with pytest.raises(PairError) as refused:
        whole(file_of(b"\xff" * 100, DEFLATED))
    assert refused.value.code is Code.DECODE_FAILED


def test_a_file_beyond_the_limit_is_not_parsed() -> None:
    content = file_of(b"".join(mr_elements().values()) + element(0x7FE00010, b"OW", b"\0" * 512), NATIVE)
    assert parse_header(content, whole=True, limits=VolumeLimits(object_bytes=len(content))).rows == 16
    with pytest.raises(PairError) as refused:
        parse_header(content, whole=True, limits=VolumeLimits(object_bytes=len(content) - 1))
    assert refused.value.code is Code.TOO_LARGE


_BOMB = """
import resource
from tasks.codes import PairError
from tasks.read.dicom import read_dicom_volume
from tasks.read.dicom_header import HeaderCut, parse_header
from tasks.volume import VolumeLimits
from tests.tasks.dicom_files import deflated, deflated_zeros, element, file_of, mr_elements

elements = mr_elements()
before = b"".join(one for tag, one in elements.items() if tag < 0x00090000)
after = b"".join(one for tag, one in elements.items() if tag > 0x00090000)
size, syntax = 1 << 30, b"1.2.840.10008.1.2.1.99"
zeros = deflated_zeros(1024)
def bomb(opening, rest):
    return file_of(deflated(opening, last=False) + zeros + deflated(rest, last=True), syntax)
huge = bomb(before + element(0x00091010, b"OB", b"", size), after + element(0x7FE00010, b"OW", b"\\0" * 512))
wide = bomb(before + after + element(0x7FE00010, b"OW", b"", size), b"")
good = before + after + element(0x7FE00010, b"OW", b"\\0" * 512)
limits = VolumeLimits()
read_dicom_volume(["a"], lambda uri: file_of(deflated(good, last=True), syntax), limits)
del good

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

start = peak()
for content in (huge, wide):
    for work in (
        lambda: parse_header(content, whole=True, limits=limits),
        lambda: parse_header(content[:65536], whole=False, limits=limits),
        lambda: read_dicom_volume(["a"], lambda uri: content, limits),
    ):
        try:
            work()
            print("read")
        except (PairError, HeaderCut) as error:
            print(getattr(error, "code", "cut"))
print(len(huge) < 2 << 20, (peak() - start) // 1024)
"""


def test_a_deflate_bomb_is_stopped() -> None:
    *outcomes, last = run_alone(_BOMB).splitlines()
    small, grown = last.split()
    assert small == "True"
    assert int(grown) < 64, f"{grown} MiB"
    # The second one's header is sound, so an index takes it; its pixels are not inflated.
    assert outcomes == ["too_large", "cut", "too_large", "read", "read", "decode_failed"]


_NESTING = """
import sys
from concurrent.futures import ThreadPoolExecutor
from tasks.codes import PairError
from tasks.read.dicom import read_dicom_volume
from tasks.read.dicom_header import HeaderCut, parse_header
from tasks.volume import VolumeLimits
from tests.tasks.dicom_files import element, file_of, mr_elements, nested

def attempt(content, whole):
    outcomes = []
    for work in (
        lambda: parse_header(content, whole=whole, limits=VolumeLimits()),
        lambda: read_dicom_volume(["a"], lambda uri: content, VolumeLimits()),
    ):
        try:
            work()
            outcomes.append("read")
        except (PairError, HeaderCut) as error:
            outcomes.append(str(getattr(error, "code", "cut")))
    return " ".join(outcomes)

elements = mr_elements()
pixels = element(0x7FE00010, b"OW", b"\\0" * 512)
enhanced = {**elements, 0x00080016: element(0x00080016, b"UI", b"1.2.840.10008.5.1.4.1.1.4.1\\0"),
            0x00280008: element(0x00280008, b"IS", b"1 ")}
for explicit in (True, False):
    for depth in (2000, 300, 120, 60):
        for tag in (0x00081140, 0x00540016, 0x00409096, 0x00283000, 0x52009229, 0x52009230):
            for base in (elements, enhanced):
                body = {**base, tag: nested(depth, explicit=explicit, tag=tag), 0x7FE00010: pixels}
                content = file_of(b"".join(one for _, one in sorted(body.items())), b"1.2.840.10008.1.2.1")
                print(attempt(content, True), attempt(content[: len(content) // 2], False))
                with ThreadPoolExecutor(1) as pool:
                    print(pool.submit(attempt, content, True).result())
print("alive")
"""


def test_nesting_of_depth_2000_does_not_kill_the_worker() -> None:
    *outcomes, last = run_alone(_NESTING).splitlines()
    assert last == "alive"
    assert set(" ".join(outcomes).split()) <= {"read", "cut", "decode_failed", "header_incomplete", "no_geometry"}
    assert "decode_failed" in outcomes[-2] or any("decode_failed" in line for line in outcomes)
