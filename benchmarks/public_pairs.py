"""Pairs of the public data sets for measurements, as a run would fuse them, and figures kept of pairs already done.

The options are the same in each measurement: which pairs, the configuration of the fusion in full, and ``--figures``,
a file that gets a line for each finished pair, so that the same command goes on where it was stopped. Lines of other
settings, other weights or another state of the code are left alone and not used.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Generic, TypeVar, get_args

import numpy as np
import torch
from torch import Tensor

import ddfm_core
from ddfm_core.colour import luma
from ddfm_core.fusion import FusionConfig, FusionResult, Mode, fuse
from ddfm_core.priors import Prior, load_prior
from tasks.evaluation.datasets import DataSet, choose_data_sets, find_data_sets
from tasks.evaluation.pictures import read_sources
from tasks.fuse import SourcePair
from tasks.job_file import make_job

Figures = TypeVar("Figures")
GREY_LEVELS_PER_UNIT: Final = 127.5
BLACK: Final = -1 + 4 / GREY_LEVELS_PER_UNIT
"""Luma of four grey levels, below which a pixel shows nothing."""


@dataclass(frozen=True, eq=False)
class Pair:
    """A pair of a data set: its sources [1, C, H, W] in [-1, 1], and the key of its noise in a run."""

    data_set: str
    key: str
    first: Tensor
    second: Tensor
    noise_key: bytes

    @property
    def name(self) -> str:
        """Unique among all pairs."""
        return f"{self.data_set}/{self.key}"

    @property
    def shown(self) -> Tensor:
        """Where one of the sources is not black [1, 1, H, W]."""
        return torch.maximum(luma(self.first), luma(self.second)) > BLACK


def add_data_options(parser: argparse.ArgumentParser, every: int) -> None:
    """Which pairs are looked at, and where figures are kept."""
    parser.add_argument("data", help="folder of data sets, as `ddfm evaluate` takes it")
    parser.add_argument("--sets", nargs="+", default=[], metavar="SET", help="only these, such as roadscene tno")
    parser.add_argument("--every", type=int, default=every, metavar="N", help=f"only every N-th pair (default {every})")
    parser.add_argument("--figures", type=Path, metavar="FILE", help="keep figures here, and go on from them")


def add_fusion_options(parser: argparse.ArgumentParser, with_mode: bool = True) -> None:
    """How pairs are fused: by default mode `adaptive` with its own steps."""
    if with_mode:
        parser.add_argument("--mode", choices=get_args(Mode), default="adaptive", help="(default %(default)s)")
    parser.add_argument("--steps", type=int, help="default: those of the mode")
    parser.add_argument("--start", type=int, help="timestep at which to begin, 999 for pure noise; default: the mode's")
    parser.add_argument("--prior", default="bundled", help="bundled (default), or a file")
    parser.add_argument("--device", default="cpu")


def chosen_data_sets(arguments: argparse.Namespace) -> tuple[DataSet, ...]:
    """Those of ``--sets``, with all their pairs."""
    return choose_data_sets(find_data_sets(arguments.data), arguments.sets)


def read_pairs(data_set: DataSet, keys: Iterable[str] | None = None) -> Iterator[Pair]:
    """The pairs of a data set, or those of some keys, one after the other as a run normalises them.

    Raises:
        PairError: one cannot be fused.
    """
    job = make_job({
        "first": data_set.folder, "second": data_set.folder, "out": "unused", "kind": "images",
        "modality_first": data_set.modality_first, "modality_second": data_set.modality_second,
    })  # fmt: skip
    wanted = None if keys is None else set(keys)
    for pair in data_set.pairs:
        if wanted is None or pair.key in wanted:
            (one,) = read_sources(pair, job).slices
            yield Pair(data_set.name, pair.key, *_tensors(one), one.key)


def _tensors(pair: SourcePair) -> tuple[Tensor, Tensor]:
    first, second = (torch.from_numpy(np.ascontiguousarray(one))[None] for one in (pair.first, pair.second))
    return first, second


def open_prior(arguments: argparse.Namespace) -> Prior:
    """The prior of the options."""
    return load_prior(arguments.prior, arguments.device)


def fused(pair: Pair, prior: Prior, config: FusionConfig) -> FusionResult:
    """A pair alone, as a run fuses it."""
    return fuse(pair.first, pair.second, prior, config, keys=[pair.noise_key])


class KeptFigures(Generic[Figures]):
    """Figures of finished pairs, in memory and as JSON lines in a file.

    Args:
        kind: the dataclass of the figures, of plain values.
        path: of the file; None keeps nothing.
        settings: whatever the figures depend on beside the code of ``ddfm_core`` and that of ``kind``'s module.
    """

    def __init__(self, kind: type[Figures], path: Path | None, *settings: object) -> None:
        self._path, self._kind = path, kind
        self._identity = _identity(kind, settings)
        self._found: dict[str, Figures] = {}
        if path is not None and path.exists():
            *lines, cut = path.read_text().split("\n")
            if cut:
                # Whoever wrote it was killed in the middle; the next line begins where it began.
                path.write_text("".join(f"{line}\n" for line in lines))
            for line in lines:
                row = json.loads(line)
                if row["identity"] == self._identity:
                    self._found[row["name"]] = kind(**row["figures"])

    def of(self, name: str, measure: Callable[[], Figures]) -> Figures:
        """The figures under ``name``: those kept, or those that ``measure`` gives now."""
        if name not in self._found:
            began = time.perf_counter()
            figures = measure()
            print(f"{name}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
            self._found[name] = figures
            if self._path is not None:
                row: dict[str, Any] = {"identity": self._identity, "name": name, "figures": asdict(figures)}  # type: ignore[call-overload]
                with self._path.open("a") as file:
                    file.write(json.dumps(row) + "\n")
        return self._found[name]


def _identity(kind: type, settings: Sequence[object]) -> str:
    module = sys.modules[kind.__module__].__file__
    files = [*sorted(Path(ddfm_core.__path__[0]).glob("*.py")), *([Path(module)] if module else [])]
    code = b"".join(file.read_bytes() for file in files)
    return hashlib.sha256(code + repr((kind.__name__, settings)).encode()).hexdigest()[:16]


def described(config: FusionConfig, prior: Prior) -> str:
    """The settings in words, for the head of a table."""
    if not config.draws:
        return f"mode {config.mode}"
    start = "pure noise" if config.start_timestep is None else f"timestep {config.start_timestep}"
    return f"mode {config.mode}, {config.num_steps} steps from {start}, prior {prior.sha256[:12]}"
