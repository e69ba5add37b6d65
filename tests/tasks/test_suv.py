"""SUV by body weight: the factor where the header allows one, and none where anything is missing or does not fit."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.tag import BaseTag

from tasks.read.suv import acquisition_moment, suv_factor, uptake_facts

WEIGHT, DOSE, HALF_LIFE = 70.0, 370e6, 6586.2


def pet(**changes: Any) -> Dataset:
    """A slice of 70 kg, 370 MBq of F-18 at 11:00, scanned at 12:00."""
    tracer = Dataset()
    tracer.RadionuclideTotalDose = DOSE
    tracer.RadionuclideHalfLife = HALF_LIFE
    tracer.RadiopharmaceuticalStartTime = "110000"
    dataset = Dataset()
    dataset.Units = "BQML"
    dataset.CorrectedImage = ["ATTN", "DECY", "SCAT"]
    dataset.DecayCorrection = "START"
    dataset.PatientWeight = WEIGHT
    dataset.SeriesDate = dataset.AcquisitionDate = "20240301"
    dataset.SeriesTime = dataset.AcquisitionTime = "120000"
    dataset.RadiopharmaceuticalInformationSequence = [tracer]
    for keyword, value in changes.items():
        holder = (
            tracer if keyword.startswith("Radio") and keyword != "RadiopharmaceuticalInformationSequence" else dataset
        )
        if value is None:
            delattr(holder, keyword)
        else:
            setattr(holder, keyword, value)
    return dataset


def factor(*slices: Dataset) -> float | None:
    return suv_factor(uptake_facts(slices[0]), [acquisition_moment(one) for one in slices])


def expected(seconds: float) -> float:
    return WEIGHT * 1000 / (DOSE * 0.5 ** (seconds / HALF_LIFE))


def test_the_dose_decays_to_the_start_of_the_series() -> None:
    assert factor(pet()) == pytest.approx(expected(3600))


def test_later_slices_do_not_move_the_start() -> None:
    assert factor(pet(), pet(AcquisitionTime="121500.5")) == pytest.approx(expected(3600))


def test_decay_corrected_to_the_injection_needs_no_times() -> None:
    dataset = pet(DecayCorrection="ADMIN", RadiopharmaceuticalStartTime=None, SeriesTime=None, AcquisitionTime=None)
    assert factor(dataset) == pytest.approx(expected(0))


def test_an_injection_before_midnight() -> None:
    dataset = pet(
        RadiopharmaceuticalStartTime="233000",
        SeriesTime="003000",
        AcquisitionTime="003000",
        SeriesDate="20240302",
        AcquisitionDate="20240302",
    )
    assert factor(dataset) == pytest.approx(expected(3600))


def test_a_full_date_of_the_injection_goes_before_its_time() -> None:
    dataset = pet(RadiopharmaceuticalStartDateTime="20240301113000.00", RadiopharmaceuticalStartTime="110000")
    assert factor(dataset) == pytest.approx(expected(1800))


def test_a_series_made_after_the_scan_falls_back_to_the_scan() -> None:
    late = pet(SeriesTime="180000")
    assert factor(late, pet(SeriesTime="180000", AcquisitionTime="121000")) == pytest.approx(expected(3600))
    late.add_new(0x00090010, "LO", "GEMS_PETD_01")
    late.add_new(0x0009100D, "DT", "20240301115000.00")
    assert factor(late) == pytest.approx(expected(3000))


def test_counts_need_philips_own_factor() -> None:
    counts = pet(Units="CNTS")
    assert factor(counts) is None
    counts.add_new(0x70530010, "LO", "Philips PET Private Group")
    counts.add_new(0x70531000, "DS", "0.000412")
    assert factor(counts) == pytest.approx(0.000412)
    counts.add_new(0x70530010, "LO", "Somebody else")
    assert factor(counts) is None


def test_values_in_grams_per_millilitre_are_suv_already() -> None:
    assert factor(pet(Units="GML")) == 1.0
    assert factor(pet(Units="GML", SUVType="BW")) == 1.0
    assert factor(pet(Units="GML", SUVType="LBM")) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"Units": None},
        {"Units": "NCPS"},
        {"CorrectedImage": ["DECY"]},
        {"CorrectedImage": ["ATTN"]},
        {"CorrectedImage": None},
        {"DecayCorrection": "NONE"},
        {"DecayCorrection": None},
        {"PatientWeight": None},
        {"PatientWeight": 0},
        {"RadionuclideTotalDose": None},
        {"RadionuclideTotalDose": 370},
        {"RadionuclideHalfLife": 0},
        {"RadionuclideHalfLife": None},
        {"RadiopharmaceuticalStartTime": None},
        {"RadiopharmaceuticalStartTime": "25 o'clock"},
        {"RadiopharmaceuticalStartDateTime": "20240301130000"},
        {"RadiopharmaceuticalStartDateTime": "20240101110000"},
        {"AcquisitionTime": None},
        {"AcquisitionDate": "SMITH"},
        {"RadiopharmaceuticalInformationSequence": None},
        {"RadiopharmaceuticalInformationSequence": [Dataset(), Dataset()]},
    ],
)
def test_anything_missing_or_impossible_gives_no_factor(changes: dict[str, Any]) -> None:
    assert factor(pet(**changes)) is None


@pytest.mark.parametrize(("vr", "value"), [("DS", b"7O kg "), ("UN", b"\xff\xfe"), ("DS", b"nan ")])
def test_bytes_that_are_no_number_give_no_factor(vr: str, value: bytes) -> None:
    dataset = pet()
    tag = BaseTag(0x00101030)
    dataset[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)
    assert factor(dataset) is None


def test_an_injection_time_has_the_scans_date() -> None:
    assert acquisition_moment(pet(AcquisitionTime="1200")) == datetime(2024, 3, 1, 12, 0)
