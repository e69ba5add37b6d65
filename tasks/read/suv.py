"""From activity concentration to the standardised uptake value by body weight, where the header allows it.

SUVbw [g/ml] = activity [Bq/ml] * weight [g] / dose [Bq], the dose decayed to the moment that the pixels were corrected
to. The rules are those of the QIBA profile's vendor-neutral pseudo-code (RSNA QIBA, "SUV vendor neutral pseudocode",
2012), and PS3.3 sections C.8.9.1 and C.8.9.2 for the attributes. Where anything is missing or does not fit, there is no
factor: the activity is as good for all but fixed windows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Final

from pydicom import Dataset
from pydicom.valuerep import DA, DT, TM

from tasks.codes import PairError
from tasks.read.dicom_file import tags_of
from tasks.read.dicom_values import items, number, text

_GE_CREATOR, _GE_SCAN_TIME = (0x0009, 0x0010), (0x0009, 0x100D)
_PHILIPS_CREATOR, _PHILIPS_FACTOR = (0x7053, 0x0010), (0x7053, 0x1000)
SUV_TAGS: Final = (
    *tags_of(
        (
            "SeriesDate",
            "SeriesTime",
            "AcquisitionDate",
            "AcquisitionTime",
            "PatientWeight",
            "CorrectedImage",
            "RadiopharmaceuticalInformationSequence",
            "Units",
            "SUVType",
            "DecayCorrection",
        )
    ),
    *(group << 16 | element for group, element in (_GE_CREATOR, _GE_SCAN_TIME, _PHILIPS_CREATOR, _PHILIPS_FACTOR)),
)
_LEAST_DOSE: Final = 1e4
"""Bq; smaller numbers are doses in MBq, which the standard does not allow."""
_MOST_HALF_LIVES: Final = 10.0


@dataclass(frozen=True, slots=True)
class UptakeFacts:
    """What one PET slice says about its values. None: absent or unreadable.

    Attributes:
        units: BQML, CNTS, GML or another defined term; "" if absent.
        suv_type: BW, LBM and so on; "" if absent, which means BW.
        corrected: for attenuation and for decay.
        decay_correction: START, ADMIN or NONE; "" if absent.
        weight: kilograms.
        dose: Bq at the time of injection.
        half_life: seconds.
        injected_at: with its date.
        injected_time: of day, where there is no date.
        series_start: SeriesDate and SeriesTime.
        vendor_scan_start: GE's own, which post-processing leaves alone.
        vendor_factor: Philips' own factor from counts to SUVbw.
    """

    units: str
    suv_type: str
    corrected: bool
    decay_correction: str
    weight: float | None
    dose: float | None
    half_life: float | None
    injected_at: datetime | None
    injected_time: time | None
    series_start: datetime | None
    vendor_scan_start: datetime | None
    vendor_factor: float | None


def uptake_facts(dataset: Dataset) -> UptakeFacts:
    """Read the attributes of SUV_TAGS from a PET slice; never raises for what they hold."""
    tracers = _items(dataset)
    tracer = tracers[0] if len(tracers) == 1 else Dataset()
    corrections = set(_text(dataset, "CorrectedImage").upper().split("\\"))
    return UptakeFacts(
        units=_text(dataset, "Units").upper(),
        suv_type=_text(dataset, "SUVType").upper(),
        corrected={"ATTN", "DECY"} <= corrections,
        decay_correction=_text(dataset, "DecayCorrection").upper(),
        weight=_number(dataset, "PatientWeight"),
        dose=_number(tracer, "RadionuclideTotalDose"),
        half_life=_number(tracer, "RadionuclideHalfLife"),
        injected_at=_moment(_text(tracer, "RadiopharmaceuticalStartDateTime")),
        injected_time=_time_of_day(_text(tracer, "RadiopharmaceuticalStartTime")),
        series_start=_combined(_text(dataset, "SeriesDate"), _text(dataset, "SeriesTime")),
        vendor_scan_start=_moment(_private(dataset, _GE_CREATOR, "GEMS_PETD_01", _GE_SCAN_TIME)),
        vendor_factor=_positive(_private(dataset, _PHILIPS_CREATOR, "Philips PET Private Group", _PHILIPS_FACTOR)),
    )


def acquisition_moment(dataset: Dataset) -> datetime | None:
    """AcquisitionDate and AcquisitionTime of a slice."""
    return _combined(_text(dataset, "AcquisitionDate"), _text(dataset, "AcquisitionTime"))


def suv_factor(facts: UptakeFacts, acquisitions: Sequence[datetime | None]) -> float | None:
    """What a PET series' values are to be multiplied by to be SUVbw; None if that is not known.

    Args:
        facts: which all slices share.
        acquisitions: :func:`acquisition_moment` of every slice.

    Returns:
        1 for values in g/ml by body weight, Philips' factor for counts, and for Bq/ml what the dose and its decay give.
    """
    if facts.units == "GML":
        return 1.0 if facts.suv_type in ("", "BW") else None
    if not facts.corrected or facts.decay_correction not in ("START", "ADMIN"):
        return None
    if facts.units == "CNTS":
        return facts.vendor_factor
    if facts.units != "BQML" or facts.weight is None or facts.dose is None or facts.half_life is None:
        return None
    if facts.weight <= 0 or facts.dose < _LEAST_DOSE or facts.half_life <= 0:
        return None
    elapsed = 0.0
    if facts.decay_correction == "START":
        scan = _scan_start(facts, acquisitions)
        injected = _injection(facts, scan) if scan is not None else None
        if scan is None or injected is None:
            return None
        elapsed = (scan - injected).total_seconds()
    if not 0 <= elapsed <= _MOST_HALF_LIVES * facts.half_life:
        return None
    return facts.weight * 1000 / (facts.dose * math.pow(2.0, -elapsed / facts.half_life))


def _scan_start(facts: UptakeFacts, acquisitions: Sequence[datetime | None]) -> datetime | None:
    """The moment that START means: the series' own time, unless post-processing made that later than the scan."""
    known = [moment for moment in acquisitions if moment is not None]
    if len(known) < len(acquisitions) or not known:
        return None
    if facts.series_start is not None and facts.series_start <= min(known):
        return facts.series_start
    return facts.vendor_scan_start if facts.vendor_scan_start is not None else min(known)


def _injection(facts: UptakeFacts, scan: datetime) -> datetime | None:
    if facts.injected_at is not None:
        return facts.injected_at
    if facts.injected_time is None:
        return None
    injected = datetime.combine(scan.date(), facts.injected_time)
    # A time of day later than the scan's is one of the evening before.
    return injected if injected <= scan else injected - timedelta(days=1)


def _text(dataset: Dataset, keyword: str) -> str:
    try:
        return text(dataset, keyword)
    except PairError:
        return ""


def _number(dataset: Dataset, keyword: str) -> float | None:
    try:
        return number(dataset, keyword)
    except PairError:
        return None


def _items(dataset: Dataset) -> Sequence[Dataset]:
    try:
        return items(dataset, "RadiopharmaceuticalInformationSequence")
    except PairError:
        return []


def _private(dataset: Dataset, creator: tuple[int, int], name: str, tag: tuple[int, int]) -> str:
    """A vendor's attribute, "" unless the creator is the expected one."""
    try:
        if creator not in dataset or str(dataset[creator].value).strip() != name or tag not in dataset:
            return ""
        value = dataset[tag].value
    except Exception:  # noqa: BLE001 - any kind: pydicom converts values when they are looked at
        return ""
    return (value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)).strip(" \0")


def _positive(value: str) -> float | None:
    try:
        converted = float(value)
    except ValueError:
        return None
    return converted if 0 < converted < float("inf") else None


def _combined(day: str, clock: str) -> datetime | None:
    when = _time_of_day(clock)
    try:
        date_of = DA(day) if day else None
    except ValueError:
        return None
    if date_of is None or when is None:
        return None
    return datetime.combine(date(date_of.year, date_of.month, date_of.day), when)


def _time_of_day(clock: str) -> time | None:
    try:
        parsed = TM(clock) if clock else None
    except ValueError:
        return None
    return None if parsed is None else time(parsed.hour, parsed.minute, parsed.second, parsed.microsecond)


def _moment(stamp: str) -> datetime | None:
    """A DT value without an offset from UTC: the other times of the header have none either."""
    try:
        parsed = DT(stamp) if len(stamp) >= len("YYYYMMDDHHMM") else None
    except ValueError:
        return None
    if parsed is None or parsed.tzinfo is not None:
        return None
    return datetime(
        parsed.year, parsed.month, parsed.day, parsed.hour, parsed.minute, parsed.second, parsed.microsecond
    )
