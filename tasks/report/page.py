"""A report as one HTML file that needs nothing else: no script, no network, pictures and plots inside it."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from typing import Final

import numpy as np
from jinja2 import Environment, StrictUndefined

from tasks.codes import Code, Status
from tasks.report.drift import LEAST_PAIRS, LEAST_SHIFT, LEAST_Z, Shift
from tasks.report.figures import Distribution, Extreme
from tasks.report.outliers import Outlier, Reason
from tasks.report.plots import distribution_plot, pace_plot
from tasks.report.run_report import RunOutcome, RunReport

TEMPLATE: Final = "page.html.j2"
METRIC_MEANINGS: Final = {
    "EN": "entropy of the grey levels, bits",
    "SD": "standard deviation of the grey levels",
    "SF": "spatial frequency, grey levels per pixel",
    "AG": "average gradient, grey levels per pixel",
    "MI": "mutual information with both sources, nats",
    "MSE": "squared error, mean over the sources",
    "CC": "correlation, mean over the sources",
    "PSNR": "dB, from the squared error",
    "SCD": "what the picture took from each source",
    "VIF": "visual information fidelity, both sources",
    "Qabf": "share of the sources' edges kept, 0 to 1",
    "SSIM": "structural similarity, both sources, range 2",
    "SSIM_255": "structural similarity, both sources, range 255",
}
_MOST_MESSAGE: Final = 300
_SHOWN_REASONS: Final = 6
_ORDINALS: Final = ("", "first", "second", "third", "fourth", "fifth", "sixth")


@dataclass(frozen=True)
class Fact:
    """A line of the table of settings."""

    name: str
    value: str


@dataclass(frozen=True)
class ProblemKind:
    """The pairs of one code.

    Attributes:
        pairs: key and details of the first of them.
    """

    status: str
    code: str
    count: int
    sentence: str
    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class EndPair:
    """A pair at an end of a metric; ``anchor`` is where the page shows it, empty where it does not."""

    key: str
    value: str
    anchor: str


@dataclass(frozen=True)
class MetricCard:
    """One metric."""

    name: str
    meaning: str
    plot: str
    median: str
    middle_half: str
    missing: int
    before: str
    shift: str
    z: str
    drifted: bool
    lowest: tuple[EndPair, ...]
    highest: tuple[EndPair, ...]


@dataclass(frozen=True)
class Cell:
    """A small picture, or why there is none."""

    label: str
    picture: str
    note: str


@dataclass(frozen=True)
class PairCard:
    """A pair with its pictures."""

    anchor: str
    key: str
    reasons: tuple[str, ...]
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class StageLine:
    """What one stage took."""

    name: str
    seconds: str
    share: str
    median: str


def render_page(report: RunReport, now: datetime) -> bytes:
    """The page, UTF-8.

    Args:
        report: what to say.
        now: when it is made, with its time zone.
    """
    # Whatever comes from rows is escaped; a key may be any text.
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    text = files(__package__).joinpath(TEMPLATE).read_text(encoding="utf-8")
    page = environment.from_string(text).render(
        report=report,
        began=_minute(report.run.began),
        made=_minute(now.astimezone(UTC)),
        counts=[(str(status), report.figures.overview.statuses.get(status, 0)) for status in Status],
        facts=_facts(report),
        problems=_problems(report),
        metrics=_metrics(report),
        pairs=_pairs(report),
        stages=_stages(report),
        pace=_pace(report),
        rate=rate_in_words(report),
        sources_shown=not report.settings.job.has_private_table,
        least=(LEAST_PAIRS, LEAST_SHIFT, LEAST_Z),
    )
    return page.encode()


def summary_markdown(report: RunReport) -> str:
    """The run as a short Markdown text, for where no page can be shown: counts, and a table of the metrics."""
    counts = report.figures.overview.statuses
    lines = [f"**{report.outcome.state}**, " + ", ".join(f"{counts.get(one, 0)} {one}" for one in Status)]
    lines += [f"- {code}: {count}" for code, count in sorted(report.figures.overview.codes.items())]
    if report.drifted:
        lines.append(f"- drifted: {', '.join(report.drifted)}")
    lines += ["", "| metric | median | middle half | before | shift |", "| --- | --- | --- | --- | --- |"]
    for one in _metrics(report, plots=False):
        lines.append(f"| {one.name} | {one.median} | {one.middle_half} | {one.before} | {one.shift} |")
    lines += ["", f"Page: `{report.relative}` below the destination."]
    return "\n".join(lines) + "\n"


def rate_in_words(report: RunReport) -> str:
    """Pairs per hour of a run that one process did from start to end, else why there is no figure."""
    outcome = report.outcome
    if outcome.seconds is None:
        return "known when the run is finished"
    if outcome.resumed:
        return "unknown, several processes worked on the run"
    if not report.figures.ok or outcome.seconds <= 0:
        return "nothing was fused"
    return f"{report.figures.ok / outcome.seconds * 3600:,.0f} pairs per hour"


def _facts(report: RunReport) -> list[Fact]:
    settings, job, outcome = report.settings, report.settings.job, report.outcome
    devices = ", ".join(f"{name} ({count:,})" for name, count in sorted(report.figures.devices.items())) or "none"
    prior = settings.prior_sha256[:12] if job.fusion_config().draws else "not used"
    modalities = [f"of {job.modality_first} and {job.modality_second}"] if job.modality_first else []
    facts = [
        ("what is done", job.algorithm),
        ("prior", prior),
        ("seed", str(job.seed)),
        ("output", job.fusion_config().output_rule()),
        ("registration", job.registration),
        ("sources", " ".join(["volumes" if job.of_volumes else "pictures", *modalities])),
        ("privacy", "strict: pseudonyms" if job.strict else "off"),
        ("device", f"{devices}, {job.precision}"),
        ("wall time", _wall_time(outcome)),
        ("rate", rate_in_words(report)),
        ("last pair finished", _minute(report.figures.last_finished)),
        ("failed pairs allowed", f"{job.failed_share:.1%}"),
        ("settings' hash", settings.config_hash),
        ("versions", f"ddfm-pipeline {report.package_version}, algorithm {report.algorithm_version}"),
    ]
    return [Fact(name, value) for name, value in facts]


def _wall_time(outcome: RunOutcome) -> str:
    if outcome.seconds is None:
        return "not finished"
    return duration(outcome.seconds) + (", of the process that finished it" if outcome.resumed else "")


def _problems(report: RunReport) -> list[ProblemKind]:
    seen = report.figures.overview
    kinds = []
    for code in sorted(map(Code, seen.codes), key=lambda one: (one.status, -seen.codes[one], one)):
        pairs = tuple(
            (row["pair_key"], row["message"].replace(code.sentence, "").strip()[:_MOST_MESSAGE])
            for row in seen.problems
            if row["code"] == code
        )
        kinds.append(ProblemKind(str(code.status), str(code), seen.codes[code], code.sentence, pairs))
    return kinds


def _metrics(report: RunReport, *, plots: bool = True) -> list[MetricCard]:
    anchors = {one.outlier.row.pair_key for one in report.shown}
    earlier = report.earlier.metrics if report.earlier is not None else {}
    cards = []
    for name, one in report.figures.metrics.items():
        shift = report.shifts.get(name)
        ends = report.figures.ends[name]
        before = earlier.get(name) if shift is not None else None
        plot = _data_uri("image/svg+xml", distribution_plot(one, before)) if plots else ""
        cards.append(_metric_card(name, one, plot, shift, report.figures.ok // report.figures.stride - len(one.values),
                                  _end_pairs(ends.lowest, anchors), _end_pairs(ends.highest, anchors)))  # fmt: skip
    return cards


def _metric_card(
    name: str,
    one: Distribution,
    plot: str,
    shift: Shift | None,
    missing: int,
    lowest: tuple[EndPair, ...],
    highest: tuple[EndPair, ...],
) -> MetricCard:
    return MetricCard(
        name=name,
        meaning=METRIC_MEANINGS[name],
        plot=plot,
        median=figure(one.median),
        middle_half=f"{figure(one.quantile(0.25))} to {figure(one.quantile(0.75))}",
        missing=max(0, missing),
        before=figure(shift.median_before) if shift is not None else "",
        shift=_signed(shift.shift) if shift is not None else "",
        z=_signed(shift.z) if shift is not None else "",
        drifted=shift is not None and shift.drifted,
        lowest=lowest,
        highest=highest,
    )


def _end_pairs(ends: Sequence[Extreme], shown: set[str]) -> tuple[EndPair, ...]:
    return tuple(
        EndPair(one.pair_key, figure(one.value), anchor_of(one.pair_key) if one.pair_key in shown else "")
        for one in ends
    )


def _pairs(report: RunReport) -> list[PairCard]:
    cards = []
    for one in report.shown:
        cells = tuple(
            Cell(small.label, _data_uri("image/jpeg", small.jpeg) if small.jpeg is not None else "", small.note)
            for small in one.pictures
        )
        cards.append(PairCard(anchor_of(one.outlier.row.pair_key), one.outlier.row.pair_key, _told(one.outlier), cells))
    return cards


def _told(outlier: Outlier) -> tuple[str, ...]:
    told = [_reason(one) for one in outlier.reasons[:_SHOWN_REASONS]]
    more = len(outlier.reasons) - len(told)
    return (*told, *([f"and {more} more"] if more else []))


def _reason(one: Reason) -> str:
    place = one.end if one.rank == 1 else f"{_ORDINALS[one.rank]} {one.end}"
    deviation = f" ({_signed(one.deviation)} SD)" if math.isfinite(one.deviation) else ""
    return f"{place} {one.metric}: {figure(one.value)}{deviation}"


def _stages(report: RunReport) -> list[StageLine]:
    totals = report.figures.stage_seconds
    total = sum(totals.values())
    return [
        StageLine(
            stage,
            duration(totals[stage]),
            f"{totals[stage] / total:.0%}",
            _milliseconds(float(np.median(values))) if len(values) else "",
        )
        for stage, values in report.figures.seconds.items()
        if total > 0 and (len(values) or totals[stage])
    ]


def _pace(report: RunReport) -> str:
    plot = pace_plot(report.figures.finished, report.figures.stride)
    return _data_uri("image/svg+xml", plot) if plot is not None else ""


def anchor_of(pair_key: str) -> str:
    """The name of a pair's place on the page: a key may hold what such a name may not."""
    return f"pair-{hashlib.sha256(pair_key.encode(errors='surrogateescape')).hexdigest()[:12]}"


def figure(value: float) -> str:
    """A number with four digits that count, or without decimals from 1000 on, grouped by thousands."""
    if not math.isfinite(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 999.95 else f"{value:#.4g}"


def duration(seconds: float) -> str:
    """As 8.2 s, 4 min 10 s or 3 h 05 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def _signed(value: float) -> str:
    return f"{value:+.1f}" if abs(value) < 1000 else f"{'+' if value > 0 else '-'}>1000"


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:,.1f} ms" if seconds < 10 else f"{seconds:,.1f} s"


def _minute(time: datetime | None) -> str:
    return f"{time:%Y-%m-%d %H:%M} UTC" if time is not None else "unknown"


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
