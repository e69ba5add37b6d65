"""Grouping by headers alone, as an index does it."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

from tasks.codes import Code
from tasks.read.dicom_header import InstanceHeader, parse_header
from tasks.read.dicom_series import SeriesGroup, group_series
from tests.tasks.dicom_files import LIMITS, bundled, element, file_of, mr_elements

BASE = parse_header(
    file_of(
        b"".join(mr_elements().values()) + element(0x7FE00010, b"OW", b"\0" * 512),
        b"1.2.840.10008.1.2.1",
    ),
    whole=True,
    limits=LIMITS,
)


def headers(count: int, start: int = 0, **changes: Any) -> list[tuple[str, InstanceHeader]]:
    return [
        (
            f"{start}/{(7 * k) % count}",
            dataclasses.replace(
                BASE,
                **{
                    "position": (0.0, 0.0, 2.5 * k),
                    "sop_instance_uid": f"1.2.{start}.{k}",
                    "instance_number": count - k,
                    **changes,
                },
            ),
        )
        for k in range(count)
    ]


def only(instances: list[tuple[str, InstanceHeader]]) -> SeriesGroup:
    random.Random(4).shuffle(instances)
    groups = group_series(instances)
    random.Random(5).shuffle(instances)
    assert group_series(instances) == groups
    assert len(groups) == 1
    return groups[0]


def test_a_volume_is_listed_by_position() -> None:
    group = only(headers(5))
    assert (group.code, group.detail, group.n_slices) == (None, "", 5)
    assert group.uris == tuple(f"0/{(7 * k) % 5}" for k in range(5))


def test_acquisitions_divide_only_where_positions_repeat() -> None:
    half = [
        (uri, dataclasses.replace(header, acquisition_number=index // 3))
        for index, (uri, header) in enumerate(headers(6))
    ]
    assert only(half).code is None
    repeated = [*headers(6, acquisition_number=1), *headers(6, 1, acquisition_number=2)]
    group = only(repeated)
    assert (group.code, group.detail) == (
        Code.AMBIGUOUS_SERIES,
        "2 volumes of 6, 6 slices; AcquisitionNumber differs",
    )
    assert len(group.uris) == 12


def test_small_differences_of_direction_do_not_divide() -> None:
    turned = (1.0, 1e-6, 0.0, 0.0, 1.0, 0.0)
    assert only([*headers(3), *headers(3, 1, orientation=turned, position=(0.0, 0.0, 40.0))]).code is None
    turned = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
    group = only([*headers(3), *headers(4, 1, orientation=turned)])
    assert group.detail == "2 volumes of 4, 3 slices; ImageOrientationPatient differs"


def test_several_traits_are_named() -> None:
    group = only([*headers(3), *headers(3, 1, echo_time=9.0, image_type="ORIGINAL\\PHASE")])
    assert group.detail == "2 volumes of 3, 3 slices; ImageType and EchoTime differs"


def test_a_series_without_geometry() -> None:
    group = only([*headers(3), *headers(1, 1, position=None)])
    assert (group.code, group.detail) == (Code.NO_GEOMETRY, "without ImagePositionPatient")


def test_files_of_many_frames() -> None:
    frames: dict[str, Any] = {
        "sop_class_uid": "1.2.840.10008.5.1.4.1.1.4.1",
        "number_of_frames": 30,
        "orientation": None,
        "position": None,
        "pixel_spacing": None,
    }
    one = only(headers(1, **frames))
    assert (one.code, one.n_slices) == (None, 30)
    assert only(headers(2, **frames)).code is Code.AMBIGUOUS_SERIES


def test_series_are_kept_apart() -> None:
    groups = group_series([*headers(3), *headers(4, 1, series_uid="1.2.9")])
    assert [group.n_slices for group in groups] == [3, 4]


def test_the_bundled_three_orientations_in_one_series() -> None:
    files = bundled("dicomdirtests", "98892003", "MR2").files
    groups = group_series((name, parse_header(content, whole=True, limits=LIMITS)) for name, content in files.items())
    codes = sorted((group.code, group.detail) for group in groups if group.code is not None)
    assert codes == [
        (Code.AMBIGUOUS_SERIES, "3 volumes of 1, 1, 1 slices; ImageOrientationPatient differs"),
        (Code.AMBIGUOUS_SERIES, "3 volumes of 1, 1, 1 slices; ImageOrientationPatient differs"),
    ]
