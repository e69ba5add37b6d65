"""The pictures of an evaluation: contact sheets of some pairs, the trace of one, and the plot of a grid."""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from PIL import Image

from ddfm_core.fusion import fuse
from ddfm_core.priors import Prior
from tasks.codes import Code, PairError, Status
from tasks.evaluation.datasets import DataSet, SetPair
from tasks.evaluation.gather import Means, current_columns
from tasks.evaluation.plots import GridPoint, grid_plot
from tasks.evaluation.sheet import Panel, blind, contact_sheet
from tasks.evaluation.trace import Trace, trace_sheet, weight_notes
from tasks.fuse import FUSION_ERRORS, code_of
from tasks.image_pair import PreparedImages, read_images
from tasks.job import Job
from tasks.publish.png import to_grey_levels
from tasks.read.raster import read_raster
from tasks.rows import ManifestRow, SourceRow
from tasks.storage import exists, join, read_bytes, read_needed, remove, write_atomic

KEY_FILE: Final = "key.json"
_ADVICE: Final = "after ddfm verify --deep --repair on the folder of its set the next call fuses it again"


@dataclass(frozen=True)
class Published:
    """A fused picture as it was published: where it lies, and its SHA-256."""

    uri: str
    sha256: str


@dataclass(frozen=True)
class Sheets:
    """What came of the contact sheets of a data set.

    Attributes:
        written: how many.
        letters: by set and key of each sheet that is new or gone, which letter is which method; none where the sheet
            shows names or is gone.
        left_out: of each sheet that could not be made, a sentence.
    """

    written: int
    letters: Mapping[str, Mapping[str, str]]
    left_out: tuple[str, ...]


def spread_keys(keys: Sequence[str], count: int) -> list[str]:
    """``count`` of the keys, or all, evenly spread over their order, the first and the last among them."""
    places = np.linspace(0, len(keys) - 1, min(count, len(keys))).round().astype(int)
    return [keys[place] for place in dict.fromkeys(places.tolist())]


def write_sheets(folder: str, data_set: DataSet, jobs: Mapping[str, Job], count: int, hidden: bool) -> Sheets:
    """Write contact sheets of some pairs of a data set into ``folder``/<set>.

    Pairs that every method fused are chosen. A sheet of which a picture cannot be read is left out, and one of an
    earlier call is removed. Other sheets stay.

    Args:
        jobs: by the name of their method, in the order of the panels; their runs are complete.
        count: sheets at most.
        hidden: letters in another order on each sheet instead of names.

    Raises:
        StorageError: the store of a picture is out of reach, or a sheet cannot be written.
    """
    pairs = {pair.key: pair for pair in data_set.pairs}
    outputs = {name: published_pictures(data_set, job) for name, job in jobs.items()}
    fused = sorted(key for key in pairs if all(key in found for found in outputs.values()))
    letters: dict[str, Mapping[str, str]] = {}
    left_out: list[str] = []
    chosen = spread_keys(fused, count)
    for key in chosen:
        name = f"{data_set.name}/{key}"
        uri = join(folder, data_set.name, f"{key}.png")
        letters[name] = {}
        try:
            panels = _panels(data_set, pairs[key], jobs, {method: found[key] for method, found in outputs.items()})
        except PairError as error:
            left_out.append(f"the sheet of {name}: {error}")
            remove(uri)
            continue
        if hidden:
            digest = hashlib.sha256(name.encode()).digest()
            panels, letters[name] = blind(panels, 2, int.from_bytes(digest[:4], "big"))
        page = contact_sheet(f"{data_set.name}  {key}", panels)
        write_picture(uri, page)
    return Sheets(len(chosen) - len(left_out), letters, tuple(left_out))


def published_pictures(data_set: DataSet, job: Job) -> dict[str, Published]:
    """The pictures of the pairs of a data set that a job has fused, by key.

    Raises:
        StorageError: its rows cannot be read.
    """
    rows = current_columns(data_set, job, ("pair_key", "status", "output_uri", "output_sha256"))
    fused = rows.filter(pc.equal(rows["status"], Status.OK)).to_pylist()
    return {row["pair_key"]: Published(row["output_uri"], row["output_sha256"]) for row in fused}


def _panels(
    data_set: DataSet, pair: SetPair, jobs: Mapping[str, Job], pictures: Mapping[str, Published]
) -> list[Panel]:
    """The sources of a pair and its fused picture by each method.

    Raises:
        PairError: one of them cannot be read.
    """
    job = next(iter(jobs.values()))
    sources = read_sources(pair, job).slices[0]
    fused = {
        name: read_raster(read_published(picture.uri, picture.sha256), max_pixels=job.max_pixels).pixels
        for name, picture in pictures.items()
    }
    return [
        Panel(data_set.modality_first, picture_of(sources.first)),
        Panel(data_set.modality_second, picture_of(sources.second)),
        *(Panel(name, pixels.astype(np.uint8)) for name, pixels in fused.items()),
    ]


def read_published(uri: str, sha256: str) -> bytes:
    """The file of a fused picture.

    Raises:
        PairError: it cannot be read, or is not the one that was published; with what to do about it.
        StorageError: its store is out of reach.
    """
    try:
        content = read_bytes(uri)
    except PairError as error:
        raise PairError(error.code, f"the fused picture; {_ADVICE}") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise PairError(Code.READ_FAILED, f"the fused picture is not the one that was published; {_ADVICE}")
    return content


def write_key(folder: str, letters: Mapping[str, Mapping[str, str]]) -> str | None:
    """Write which letter is which method on which sheet; returns where, None when no sheet has letters.

    Args:
        letters: as in :class:`Sheets`. What the key says of other sheets stays.

    Raises:
        StorageError: it cannot be read or written.
    """
    uri = join(folder, KEY_FILE)
    before: dict[str, Mapping[str, str]] = json.loads(read_needed(uri)) if exists(uri) else {}
    key = {name: of_sheet for name, of_sheet in (before | dict(letters)).items() if of_sheet}
    if not key:
        remove(uri)
        return None
    write_atomic(uri, (json.dumps(key, indent=2, sort_keys=True) + "\n").encode())
    return uri


def write_trace(folder: str, data_set: DataSet, pair: SetPair, job: Job, prior: Prior) -> str:
    """Fuse one pair and write its steps as a sheet into ``folder``/<set>; returns where.

    Raises:
        PairError: the pair cannot be fused.
        StorageError: the store of its sources is out of reach, or the sheet cannot be written.
    """
    sources = read_sources(pair, job).slices[0]
    first, second = (torch.from_numpy(np.ascontiguousarray(one))[None] for one in (sources.first, sources.second))
    config = job.fusion_config()
    trace = Trace(first.shape[2], first.shape[3], config.num_steps)
    try:
        fuse(first, second, prior, config, keys=[sources.key], callback=trace)
    except FUSION_ERRORS as error:
        raise PairError(code_of(error), f"{type(error).__name__}: {error}") from error
    uri = join(folder, data_set.name, f"{pair.key}.trace.png")
    title = f"{data_set.name}  {pair.key}  {job.method_name}"
    write_picture(uri, trace_sheet(title, trace.kept(), notes=weight_notes(config)))
    return uri


def write_plot(folder: str, data_set: DataSet, means: Sequence[Means], jobs: Mapping[str, Job]) -> str | None:
    """Plot the means of a grid over its steps into ``folder``; returns where, None when no pair was fused.

    Raises:
        StorageError: it cannot be written.
    """
    metrics = [name for name in means[0].figures if any(math.isfinite(one.figures[name]) for one in means)]
    if not metrics:
        return None
    points = [
        GridPoint(re.sub(r"_steps-\d+", "", one.method), jobs[one.method].fusion_config().num_steps, one.figures)
        for one in means
    ]
    uri = join(folder, f"{data_set.name}.png")
    write_picture(uri, grid_plot(data_set.name, points, metrics))
    return uri


def read_sources(pair: SetPair, job: Job) -> PreparedImages:
    """The two sources of a pair as the core gets them.

    Raises:
        PairError: they cannot be fused.
        StorageError: their store is out of reach.
    """
    row = ManifestRow("", "", pair.key, pair.first, pair.second, None, None, None, None, None, "", 1)
    places = SourceRow(
        pair_key=pair.key,
        first_uris=(pair.first or "",),
        second_uris=(pair.second or "",),
        first_kind="image",
        second_kind="image",
    )
    return read_images(row, places, job)


def picture_of(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    """[C, H, W] in [-1, 1] as 8-bit [H, W] or [H, W, 3]."""
    levels = to_grey_levels(image)
    return levels[0] if len(levels) == 1 else levels.transpose(1, 2, 0)


def write_picture(uri: str, picture: Image.Image) -> None:
    """Write a page as PNG.

    Raises:
        StorageError: it cannot be written.
    """
    encoded = io.BytesIO()
    picture.save(encoded, "PNG")
    write_atomic(uri, encoded.getvalue())
