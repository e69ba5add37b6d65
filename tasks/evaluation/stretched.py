"""The stretched twin of a method: its published pictures measured again, each stretched to the full range.

Papers stretch each fused picture from its least to its greatest value before they save and measure it. A twin tells
what that does to the figures, without fusing anything: it takes the 8-bit picture that was published. What was measured
is kept in ``OUT/stretched/<set>/<method>.parquet`` and holds as long as picture, sources and configuration stay.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from ddfm_core.colour import FULL_RANGE, into_gamut, luma
from ddfm_core.fusion import finish
from ddfm_core.metrics import METRIC_NAMES
from tasks.codes import Code, PairError, Status
from tasks.evaluation.datasets import DataSet, SetPair
from tasks.evaluation.gather import EVALUATION_SCHEMA, current_columns, method_rows
from tasks.evaluation.methods import Method
from tasks.evaluation.pictures import read_published, read_sources
from tasks.job import Job
from tasks.measure import measure
from tasks.normalise import normalise
from tasks.read.raster import read_raster
from tasks.schemas import table_of
from tasks.storage import StorageError, exists, join
from tasks.tables import read_table, write_table

logger = logging.getLogger(__name__)

_KEPT_TOGETHER: Final = 32
"""Pictures measured between two writes of the table: the most that a kill can cost."""

_IDENTITY: Final = ("output_sha256", "first_fingerprint", "second_fingerprint", "config_hash")
"""Columns of result rows on which figures depend; the last one because it changes with the algorithm's version."""

STRETCHED_SCHEMA: Final = pa.schema(
    [
        pa.field("pair_key", pa.string(), nullable=False),
        *(pa.field(name, pa.string(), nullable=False) for name in _IDENTITY),
        *(pa.field(name, pa.float64()) for name in METRIC_NAMES),
    ],
    metadata={"ddfm_schema": "stretched", "ddfm_schema_version": "1"},
)
"""The figures of stretched pictures, one row per pair; the other columns are as in result rows."""

Identity = tuple[str, ...]


@dataclass(frozen=True)
class Kept:
    """The figures of a stretched picture by metric, and of what they are: the values of ``_IDENTITY``."""

    identity: Identity
    figures: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Twin:
    """What is known of a method's twin over a data set, and what is still to measure.

    Attributes:
        name: of the twin.
        uri: of the table that keeps the figures.
        rows: those of the method itself, as :func:`tasks.evaluation.gather.method_rows` gives them.
        pictures: what those of the fused pairs are known by, by key.
        kept: by key; also of pairs that this evaluation leaves out, and of pictures that were replaced since.
    """

    name: str
    data_set: DataSet
    job: Job
    uri: str
    rows: pa.Table
    pictures: Mapping[str, Identity]
    kept: Mapping[str, Kept]

    @property
    def pending(self) -> tuple[str, ...]:
        """The keys of the pictures to measure."""
        return tuple(
            key for key, now in self.pictures.items() if key not in self.kept or self.kept[key].identity != now
        )

    def of_pending(self, rows: pa.Table) -> pa.Table:
        """Those of the twin's rows whose pictures were to measure."""
        return rows.filter(pc.is_in(rows["pair_key"], pa.array(self.pending, pa.string())))


def plan_twin(out: str, data_set: DataSet, method: Method, job: Job) -> Twin:
    """Look up which pictures of a method are measured already.

    Args:
        out: the destination of the evaluation.
        job: of ``method`` over ``data_set``; its run is complete.

    Raises:
        StorageError: rows cannot be read, or are damaged.
    """
    uri = join(out, "stretched", data_set.name, f"{method.name}.parquet")
    found = read_table(uri, STRETCHED_SCHEMA).to_pylist() if exists(uri) else []
    current = current_columns(data_set, job, ("pair_key", "status", *_IDENTITY))
    return Twin(
        method.twin_name,
        data_set,
        job,
        uri,
        method_rows(data_set, job),
        {row["pair_key"]: _identity(row) for row in current.to_pylist() if row["status"] == Status.OK},
        {row["pair_key"]: Kept(_identity(row), {name: row[name] for name in METRIC_NAMES}) for row in found},
    )


def measure_twin(twin: Twin, progress: Callable[[float], None], check: Callable[[], None]) -> pa.Table:
    """Measure what is to measure, one picture at a time, and keep it.

    A picture that cannot be measured becomes a row with a code and is tried again by the next call.

    Args:
        progress: told after each picture, with 1.
        check: called before each picture; what it raises ends the work. All that was kept before stays.

    Returns:
        The rows of the twin, in the schema of an evaluation: those of the method under the name of the twin, with
        figures of the stretched pictures.

    Raises:
        StorageError: the store of a source or of the destination is out of reach.
    """
    pairs = {pair.key: pair for pair in twin.data_set.pairs}
    uris = dict(zip(twin.rows["pair_key"].to_pylist(), twin.rows["output_uri"].to_pylist(), strict=True))
    kept, refused = dict(twin.kept), dict[str, PairError]()
    pending = twin.pending
    for number, key in enumerate(pending, start=1):
        check()
        measured = _measured(pairs[key], uris[key], twin.pictures[key], twin.job)
        if isinstance(measured, PairError):
            refused[key] = measured
        else:
            kept[key] = Kept(twin.pictures[key], measured)
        progress(1)
        if number % _KEPT_TOGETHER == 0 or number == len(pending):
            _keep(twin.uri, kept)
    rows = [_row(row, twin.name, kept, refused) for row in twin.rows.to_pylist()]
    return table_of({field: [row[field] for row in rows] for field in EVALUATION_SCHEMA.names}, EVALUATION_SCHEMA)


def stretch(image: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float32]:
    """A picture [C, H, W] in [-1, 1] whose least and greatest luma were brought to -1 and 1, with its chroma.

    This is ``output="stretch"`` of :func:`ddfm_core.fusion.fuse` on a finished picture, with the same rule for what
    leaves the gamut. A flat one stays as it is.

    Args:
        image: the picture.
        second: the second source [1 or 3, H, W].
    """
    picture = torch.from_numpy(image)[None]
    shown = FULL_RANGE.with_luma(picture, finish(luma(picture), "stretch"))
    levels: NDArray[np.float32] = into_gamut(shown, torch.from_numpy(second)[None])[0].numpy()
    return levels


def _measured(pair: SetPair, uri: str, identity: Identity, job: Job) -> dict[str, float] | PairError:
    try:
        content = read_published(uri, identity[_IDENTITY.index("output_sha256")])
        fused, _ = normalise(read_raster(content, max_pixels=job.max_pixels))
        prepared = read_sources(pair, job)
        (sources,) = prepared.slices
        return measure(stretch(fused, sources.second), sources.first, sources.second, prepared.registered.valid)
    except PairError as error:
        return error
    except StorageError:
        raise
    except Exception as error:
        # A fault of ours in one pair must not cost the others.
        told = f"{type(error).__name__}: {error}"
        logger.error("pair %s: %s", pair.key, told, exc_info=error)
        return PairError(Code.INTERNAL_ERROR, told)


def _identity(row: Mapping[str, Any]) -> Identity:
    return tuple(row[name] for name in _IDENTITY)


def _keep(uri: str, kept: Mapping[str, Kept]) -> None:
    rows = [
        {"pair_key": key, **dict(zip(_IDENTITY, one.identity, strict=True)), **one.figures}
        for key, one in sorted(kept.items())
    ]
    write_table(uri, table_of({name: [row[name] for row in rows] for name in STRETCHED_SCHEMA.names}, STRETCHED_SCHEMA))


def _row(
    row: Mapping[str, Any], name: str, kept: Mapping[str, Kept], refused: Mapping[str, PairError]
) -> dict[str, Any]:
    """The twin's row for that of the method."""
    key, changes = row["pair_key"], dict[str, Any](method=name)
    if key in refused:
        error = refused[key]
        changes |= {"status": error.code.status, "code": error.code, "message": str(error), "output_uri": None}
        changes |= dict.fromkeys(METRIC_NAMES)
    elif row["status"] == Status.OK:
        changes |= kept[key].figures
    return {**row, **changes}
