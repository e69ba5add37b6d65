"""What a pair is between the stages: prepared, refused, fused, encoded. Pictures and volumes alike."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

import numpy as np

from ddfm_core.fusion import ALGORITHM_VERSION
from tasks.codes import Code, PairError
from tasks.fuse import Fused, SourcePair
from tasks.privacy import described
from tasks.rows import ManifestRow, ResultRow, SliceRow
from tasks.settings import RunSettings, package_version

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class RefusedPair:
    """A pair that goes no further, with the reason for its row."""

    row: ManifestRow
    code: Code
    message: str


@dataclass(frozen=True, eq=False, kw_only=True)
class PreparedPair:
    """A pair in memory, ready for the core; :mod:`tasks.image_pair` and :mod:`tasks.volume_pair` make them.

    Attributes:
        slices: what goes through the core: one picture, or the slices of a volume that are not empty.
        seconds_read, seconds_register, seconds_normalise: that the stages of reading took.
    """

    row: ManifestRow
    slices: tuple[SourcePair, ...]
    seconds_read: float
    seconds_register: float
    seconds_normalise: float


@dataclass(frozen=True, eq=False)
class FusedPair:
    """A pair that left the core.

    Attributes:
        slices: the fused ``slices`` of the prepared one.
    """

    prepared: PreparedPair
    slices: tuple[Fused, ...]

    @property
    def seconds(self) -> float:
        """That they took in the core."""
        return sum(one.seconds for one in self.slices)


@dataclass(frozen=True, eq=False)
class OutputFile:
    """A file of a result, ready to be written."""

    uri: str
    content: bytes


@dataclass(frozen=True, eq=False)
class EncodedPair:
    """A measured pair whose files are ready to be written, with the rows that will be true then.

    Attributes:
        folders: places of the pair that shall hold nothing but ``files`` then.
        obsolete: files that an earlier result of the pair may have left, and that shall be gone then.
    """

    row: ResultRow
    files: tuple[OutputFile, ...]
    slices: tuple[SliceRow, ...] = ()
    folders: tuple[str, ...] = ()
    obsolete: tuple[str, ...] = ()


@dataclass(frozen=True)
class PublishedPair:
    """The rows of a pair whose files lie in their place."""

    row: ResultRow
    slices: Sequence[SliceRow] = ()


class SourceError(PairError):
    """An error of one source, whose message says which."""

    def __init__(self, side: str, error: PairError) -> None:
        super().__init__(error.code, error.detail)
        self.args = (f"{side} source: {error}",)


def explanation(settings: RunSettings) -> Callable[[BaseException], str]:
    """What may be told of an error: in strict privacy nothing that it quotes."""
    return described if settings.job.strict else _in_full


def _in_full(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def unexpected(row: ManifestRow, error: Exception, settings: RunSettings) -> RefusedPair:
    """A fault of ours in one pair must not cost the others."""
    told = explanation(settings)(error)
    logger.error("pair %s: %s", row.pair_key, told, exc_info=None if settings.job.strict else error)
    return RefusedPair(row, Code.INTERNAL_ERROR, f"{Code.INTERNAL_ERROR.sentence} ({told})")


def refused_row(pair: RefusedPair, settings: RunSettings, device: str) -> ResultRow:
    """The row of a pair that went no further."""
    columns = common_columns(pair.row, settings, device)
    return ResultRow(**columns, status=pair.code.status, code=pair.code, message=pair.message)


class Line(Protocol):
    """How a source was normalised: ``lo`` became -1 and ``hi`` 1, by a rule."""

    @property
    def rule(self) -> str:
        """Its name."""

    @property
    def lo(self) -> float:
        """In the source's values."""

    @property
    def hi(self) -> float:
        """Likewise."""


def fused_columns(pair: FusedPair, first: Line, second: Line) -> dict[str, Any]:
    """What the row of every fused pair has: how its sources were normalised, its colours, and what the stages took."""
    return {
        "normalisation_first_rule": first.rule,
        "normalisation_first_lo": first.lo,
        "normalisation_first_hi": first.hi,
        "normalisation_second_rule": second.rule,
        "normalisation_second_lo": second.lo,
        "normalisation_second_hi": second.hi,
        "seconds_read": pair.prepared.seconds_read,
        "seconds_register": pair.prepared.seconds_register,
        "seconds_normalise": pair.prepared.seconds_normalise,
        "out_of_gamut": float(np.mean([one.out_of_gamut for one in pair.slices])),
        "seconds_fuse": pair.seconds,
    }


def common_columns(row: ManifestRow, settings: RunSettings, device: str) -> dict[str, Any]:
    """What every row of a run has, whatever became of its pair."""
    job = settings.job
    return {
        "run_id": settings.run.run_id,
        "shard_id": row.shard_id,
        "chunk_id": row.chunk_id,
        "pair_key": row.pair_key,
        "method": job.method_name,
        "dataset": job.dataset,
        "modality_first": job.modality_first,
        "modality_second": job.modality_second,
        "first_uri": row.first_uri,
        "second_uri": row.second_uri,
        "first_fingerprint": row.first_fingerprint,
        "second_fingerprint": row.second_fingerprint,
        "attempt": row.attempt,
        "lock_token": settings.token,
        "seed": job.seed,
        "steps": job.fusion_config().num_steps,
        "samples": job.samples,
        "mode": job.mode,
        "prior_sha256": settings.prior_sha256,
        "config_hash": settings.config_hash,
        "algorithm_version": str(ALGORITHM_VERSION),
        "package_version": package_version(),
        "device": device,
        "finished_at": datetime.now(UTC),
    }
