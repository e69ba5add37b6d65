"""The rows of an evaluation: what the fusion runs came to, one row per data set, method and pair."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from ddfm_core.metrics import METRIC_NAMES
from tasks.codes import Status
from tasks.current import current_batches
from tasks.evaluation.datasets import DataSet
from tasks.evaluation.methods import idle_fields
from tasks.job import Job
from tasks.schemas import RESULT_SCHEMA, table_of
from tasks.scratch import scratch_folder
from tasks.storage import absolute
from tasks.tables import write_table

_SETTINGS: Final = (
    ("mode", pa.string(), False),
    ("steps", pa.int32(), True),
    ("start", pa.int32(), True),
    ("update", pa.string(), True),
    ("eta", pa.float64(), True),
    ("tv_weight", pa.float64(), True),
    ("penalty", pa.float64(), True),
    ("phi", pa.float64(), True),
    ("use_prior", pa.bool_(), True),
    ("samples", pa.int32(), True),
    ("seed", pa.int64(), True),
    ("prior", pa.string(), True),
    ("precision", pa.string(), True),
)
"""Columns of the configuration: the fields of the job, null where the method has no use for them."""
_OF_RUNS: Final = (
    "pair_key", "config_hash", "prior_sha256", "status", "code", "message", "output_uri", "out_of_gamut", "std_mean",
    "seconds_fuse",
)  # fmt: skip

EVALUATION_SCHEMA: Final = pa.schema(
    [
        pa.field("set", pa.string(), nullable=False),
        pa.field("pair_key", pa.string(), nullable=False),
        pa.field("method", pa.string(), nullable=False),
        *(pa.field(*column) for column in _SETTINGS),
        pa.field("output", pa.string(), nullable=False),
        pa.field("config_hash", pa.string(), nullable=False),
        pa.field("prior_sha256", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("code", pa.string()),
        pa.field("message", pa.string(), nullable=False),
        pa.field("output_uri", pa.string()),
        pa.field("out_of_gamut", pa.float64()),
        pa.field("std_mean", pa.float64()),
        pa.field("seconds", pa.float64()),
        *(pa.field(name, pa.float64()) for name in METRIC_NAMES),
    ],
    metadata={"ddfm_schema": "evaluation", "ddfm_schema_version": "1"},
)
"""One row per data set, method and pair; ``seconds`` are those of the fusion alone, the rest is as in result rows.

The row of a stretched twin has a method and figures of its own; all else, ``output`` and ``output_uri`` too, is of the
picture that was published and then stretched to be measured."""


@dataclass(frozen=True)
class Means:
    """What the rows of one method over one data set come to.

    Attributes:
        pairs: all rows; ``fused`` of them are ok, and the figures are their means.
        seconds: of the fusion of a pair.
        figures: by metric, over the pairs where it exists; NaN where it never does.
        missing: by metric, in how many of the fused pairs it does not exist; only where there are some.
    """

    method: str
    pairs: int
    fused: int
    seconds: float
    figures: Mapping[str, float]
    missing: Mapping[str, int] = field(default_factory=dict)


def method_rows(data_set: DataSet, job: Job) -> pa.Table:
    """The current rows of one method over the pairs of a data set, by key.

    Rows of pairs that this evaluation leaves out, or whose sources are gone, are not among them.

    Raises:
        StorageError: they cannot be read.
    """
    current = current_columns(data_set, job, (*_OF_RUNS, *METRIC_NAMES))
    found: dict[str, list[Any]] = current.to_pydict()
    count = len(current)
    fixed: dict[str, Any] = {"set": data_set.name, "method": job.method_name} | _settings(job)
    found["seconds"] = found.pop("seconds_fuse")
    return table_of(found | {name: [value] * count for name, value in fixed.items()}, EVALUATION_SCHEMA)


def current_columns(data_set: DataSet, job: Job, columns: Sequence[str]) -> pa.Table:
    """Columns of the current result rows of one method over the pairs of a data set, ``pair_key`` among them, by key.

    Raises:
        StorageError: they cannot be read.
    """
    keys = pa.array(sorted({pair.key for pair in data_set.pairs}), pa.string())
    with scratch_folder() as scratch:
        tables = [
            table.filter(pc.is_in(table["pair_key"], keys))
            for table in current_batches(absolute(job.out), job.method_name, scratch, columns)
        ]
    return pa.concat_tables([RESULT_SCHEMA.empty_table().select(list(columns)), *tables])


def _settings(job: Job) -> dict[str, Any]:
    config = job.fusion_config()
    effective = job.resolved()
    unused = idle_fields(config)
    settings = {name: None if name in unused else getattr(effective, name) for name, _, _ in _SETTINGS}
    return settings | {"output": config.output_rule()}


def mean_figures(rows: pa.Table, metrics: Sequence[str]) -> Means:
    """The means of rows of one method over one data set.

    Raises:
        ValueError: there are no rows.
    """
    if not len(rows):
        raise ValueError("there are no rows to take the mean of")
    fused = rows.filter(pc.equal(rows["status"], Status.OK))
    return Means(
        rows["method"][0].as_py(),
        len(rows),
        len(fused),
        _mean(fused["seconds"]),
        {name: _mean(fused[name]) for name in metrics},
        {name: missing for name in metrics if (missing := len(fused) - len(_finite(fused[name])))},
    )


def _finite(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.filter(pc.is_finite(column))


def _mean(column: pa.ChunkedArray) -> float:
    found = pc.mean(_finite(column)).as_py()
    return math.nan if found is None else float(found)


def write_evaluation(uri: str, tables: Sequence[pa.Table]) -> pa.Table:
    """Write the rows of all data sets and methods as one Parquet file, and return them.

    Raises:
        StorageError: it cannot be written.
    """
    rows = pa.concat_tables([EVALUATION_SCHEMA.empty_table(), *tables]).combine_chunks()
    write_table(uri, rows)
    return rows
