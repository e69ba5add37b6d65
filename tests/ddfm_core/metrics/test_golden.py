"""Figures of the published evaluator on real pairs."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ddfm_core.metrics import METRIC_NAMES, evaluator_grey, fusion_metrics
from tests.shared_data import shared

FOLDERS = {
    "roadscene": ("ir", "vi"),
    "tno": ("ir", "vi"),
    "harvard_mri_ct": ("ct", "mri"),
    "harvard_mri_pet": ("pet", "mri"),
    "harvard_mri_spect": ("spect", "mri"),
}
COLUMNS = {name: name for name in METRIC_NAMES} | {"SSIM": "SSIM_range2", "SSIM_255": "SSIM_range255"}


def read_grey(path: Path) -> Tensor:
    picture = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).movedim(-1, 0)
    return evaluator_grey(picture)[None]


def fuse(rule: str, first: Tensor, second: Tensor) -> Tensor:
    if rule == "mean":
        return (first.int() + second.int()) // 2
    return torch.maximum(first, second) if rule == "max" else first


@pytest.mark.parametrize("dataset", FOLDERS)
def test_every_row_of_the_published_evaluator(dataset: str) -> None:
    with shared("golden/metrics_reference.csv").open() as table:
        rows = [row for row in csv.DictReader(table) if row["dataset"] == dataset]
    assert {row["fused"] for row in rows} == {"mean", "max", "first"}
    for row in rows:
        first, second = (
            read_grey(shared(f"data/pairs/{dataset}/{folder}/{row['pair']}")) for folder in FOLDERS[dataset]
        )
        figures = fusion_metrics(fuse(row["fused"], first, second), first, second)
        got = {name: figure.item() for name, figure in figures.items()}
        expected = {name: float(row[column]) for name, column in COLUMNS.items()}
        assert got == pytest.approx(expected, rel=1e-4, nan_ok=True), row
