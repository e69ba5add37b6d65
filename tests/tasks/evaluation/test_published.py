"""The published rows, against figures typed from the papers' tables a second time."""

import pytest

from ddfm_core.metrics import METRIC_NAMES
from tasks.evaluation.datasets import Family
from tasks.evaluation.published import PUBLISHED, Role, published_rows

# EN, SD, MI, VIF, Qabf, SSIM
DDFM = {
    Family.MSRS: (6.88, 40.75, 2.35, 0.81, 0.58, 0.94),
    Family.ROADSCENE: (7.41, 52.61, 2.35, 0.75, 0.65, 0.98),
    Family.M3FD: (6.86, 38.95, 2.52, 0.80, 0.49, 0.95),
    Family.TNO: (7.06, 51.42, 2.21, 0.81, 0.49, 0.95),
    None: (4.64, 63.11, 1.99, 0.76, 0.60, 1.41),
}
# EN, SD, VIF of DDFM in the tables of EMMA and FILM
LATER = {
    Family.ROADSCENE: ((7.24, 42.43, 0.62), (7.27, 42.94, 0.63)),
    Family.M3FD: ((6.82, 32.68, 0.60), (6.72, 31.15, 0.63)),
    None: ((3.97, 59.81, 0.63), (3.82, 56.47, 0.68)),
}


@pytest.mark.parametrize("family", DDFM)
def test_the_papers_own_row(family):
    (row,) = (row for row in published_rows(family) if row.role == Role.PAPER)
    assert tuple(row.figures[name] for name in ("EN", "SD", "MI", "VIF", "Qabf", "SSIM")) == DDFM[family]
    assert row.source.endswith("Table 3" if family is None else "Table 1")
    assert published_rows(family)[0] == row


@pytest.mark.parametrize("family", LATER)
def test_what_later_papers_measured_for_it(family):
    rows = [row for row in published_rows(family) if row.role == Role.RERUN]
    assert tuple(tuple(row.figures[name] for name in ("EN", "SD", "VIF")) for row in rows) == LATER[family]
    assert "EMMA" in rows[0].source
    assert "FILM" in rows[1].source


def test_other_rows():
    figures = {(row.family, row.method, row.source.split(",")[0]): row.figures for row in PUBLISHED}
    ablation = figures[Family.ROADSCENE, "DDFM without its prior (Exp. I)", "Zhao et al."]
    assert dict(ablation) == {"EN": 7.19, "SD": 41.82, "MI": 2.11, "VIF": 0.60, "Qabf": 0.42, "SSIM": 0.92}
    medical = [row.figures for row in PUBLISHED if row.method == "CDDFuse (medical)"]
    assert [(one["EN"], one["SD"], one["VIF"], one["Qabf"]) for one in medical] == [
        (4.88, 79.17, 0.61, 0.68), (4.22, 70.74, 0.71, 0.71), (3.90, 58.31, 0.97, 0.78),
    ]  # fmt: skip
    assert dict(figures[Family.HARVARD_CT, "DDFM, run again", "Tang et al."]) == {"SD": 65.44, "VIF": 0.47, "SF": 18.11}


def test_every_row_names_its_source_and_known_metrics():
    for row in PUBLISHED:
        assert row.source
        assert row.figures.keys() <= set(METRIC_NAMES)
