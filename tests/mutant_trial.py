"""`read_raster` on mutants, in a child process with limits on memory and time.

    python -m tests.mutant_trial MODULE:FUNCTION SECONDS NUMBER...

A child says which mutant comes next before it reads it, so that the one it dies of is known. A child that dies is
replaced by another one that goes on behind the culprit.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from tasks.codes import PairError
from tasks.job import Job
from tasks.read.raster import Image
from tests.mutants import make_mutant, sample
from tests.picture_files import KINDS

SECONDS = 10.0
"""Of processor time a mutant may take; wall time would measure what else the machine does."""
WALL_SECONDS = 120.0
MEMORY = 2**30
"""Bytes a mutant may take beyond what the process held before."""
MAX_PIXELS: int = Job.model_fields["max_pixels"].default
IMAGE = "image"
REREAD_VALUES = 10**6
"""Pictures below this size are read twice."""
READER = "tasks.read.raster:read_raster"


@dataclass(frozen=True)
class Trial:
    """What became of a mutant.

    Attributes:
        outcome: `IMAGE`, the code of a PairError, or, where the reader is at fault, what happened.
        seconds: of processor time.
        peak: bytes of memory beyond what the process held before.
    """

    number: int
    kind: str
    change: str
    outcome: str
    seconds: float
    peak: int


def try_mutants(numbers: Sequence[int], *, reader: str = READER, seconds: float = SECONDS) -> list[Trial]:
    """Read these mutants in child processes; one trial each, in their order."""
    trials: list[Trial] = []
    while len(trials) < len(numbers):
        trials += _run_child(numbers[len(trials) :], reader, seconds)
    return trials


def _run_child(numbers: Sequence[int], reader: str, seconds: float) -> list[Trial]:
    """As many trials as a child lives for, with that of the mutant it died of."""
    command = [sys.executable, "-m", "tests.mutant_trial", reader, str(seconds), *map(str, numbers)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    trials: list[Trial] = []
    current: int | None = None
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=environment, cwd=Path(__file__).parents[1]
    ) as child:
        for line in _lines(child):
            if line.startswith("{"):
                trials.append(Trial(**json.loads(line)))
                current = None
            else:
                current = int(line)
    if current is None:
        if len(trials) < len(numbers):
            raise RuntimeError(f"the child ended between mutants with status {child.returncode}")
        return trials
    mutant = make_mutant(current)
    died = {-signal.SIGPROF: "hang", -signal.SIGKILL: "hang"}.get(
        child.returncode, f"died with status {child.returncode}"
    )
    return [*trials, Trial(current, mutant.kind, mutant.change, died, 0.0, 0)]


def _lines(child: subprocess.Popen[str]) -> Iterator[str]:
    """The child's lines; a child that is silent for too long is killed."""
    assert child.stdout is not None
    while select.select([child.stdout], [], [], WALL_SECONDS)[0]:
        line = child.stdout.readline()
        if not line:
            return
        yield line
    child.kill()


def _try(number: int, reader: Callable[..., object], limit_seconds: float) -> Trial:
    mutant = make_mutant(number)
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from here
    limit = _memory("VmSize") + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    signal.setitimer(signal.ITIMER_PROF, limit_seconds)
    began = time.process_time()
    outcome = _outcome(mutant.data, reader)
    seconds = time.process_time() - began
    signal.setitimer(signal.ITIMER_PROF, 0)
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return Trial(number, mutant.kind, mutant.change, outcome, seconds, max(_memory("VmHWM") - before, 0))


def _outcome(data: bytes, reader: Callable[..., object]) -> str:
    try:
        image = reader(data, max_pixels=MAX_PIXELS)
    except PairError as error:
        return str(error.code)
    except Exception as error:  # noqa: BLE001 - any other kind is the fault that is looked for
        return f"raised {type(error).__name__}: {error}"
    if not isinstance(image, Image):
        return f"returned {type(image).__name__}"
    if image.pixels.size < REREAD_VALUES:
        # What a decoder left as it found it in memory would differ now.
        np.full(image.pixels.shape, 171, image.pixels.dtype)
        again = reader(data, max_pixels=MAX_PIXELS)
        if not isinstance(again, Image) or not np.array_equal(again.pixels, image.pixels):
            return "read differently again"
    return IMAGE


def _memory(field: str) -> int:
    """Bytes, by a field of the kernel's status of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("reader")
    parser.add_argument("seconds", type=float)
    parser.add_argument("numbers", type=int, nargs="+")
    arguments = parser.parse_args()
    module, function = arguments.reader.split(":")
    reader = getattr(importlib.import_module(module), function)
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    for kind in KINDS:
        _outcome(sample(kind), reader)  # what is imported or kept at the first use is not the mutant's
    for number in arguments.numbers:
        print(number, flush=True)
        print(json.dumps(asdict(_try(number, reader, arguments.seconds))), flush=True)


if __name__ == "__main__":
    _main()
