"""The pictures of an evaluation: contact sheets of some pairs, the trace of one, and the plot of a grid."""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ddfm_core.fusion import fuse
from ddfm_core.priors import Prior
from tasks.codes import ConfigurationError, PairError
from tasks.evaluation.datasets import DataSet, SetPair
from tasks.evaluation.gather import Means
from tasks.evaluation.plots import GridPoint, grid_plot
from tasks.evaluation.sheet import Panel, blind, contact_sheet
from tasks.evaluation.trace import Trace, trace_sheet
from tasks.image_pair import PreparedImages, read_images
from tasks.job import Job
from tasks.publish.png import to_grey_levels
from tasks.read.raster import read_raster
from tasks.rows import ManifestRow, SourceRow
from tasks.storage import join, read_bytes, write_atomic

KEY_FILE: Final = "key.json"


def spread_keys(keys: Sequence[str], count: int) -> list[str]:
    """``count`` of the keys, or all, evenly spread over their order, the first and the last among them."""
    places = np.linspace(0, len(keys) - 1, min(count, len(keys))).round().astype(int)
    return [keys[place] for place in dict.fromkeys(places.tolist())]


def write_sheets(
    folder: str, data_set: DataSet, jobs: Mapping[str, Job], outputs: Mapping[str, Mapping[str, str]], count: int,
    hidden: bool,
) -> dict[str, dict[str, str]]:  # fmt: skip
    """Write contact sheets of some pairs of a data set into ``folder``/<set>.

    Args:
        jobs: by the name of their method.
        outputs: by method, in the order of the panels, and then by key, where the fused pictures lie. Pairs that every
            method fused are chosen.
        count: sheets at most.
        hidden: letters in another order on each sheet instead of names.

    Returns:
        By set and key: which letter is which method; empty unless ``hidden``.

    Raises:
        StorageError: a picture cannot be read, or a sheet not be written.
        PairError: a picture that was published cannot be decoded any more.
    """
    pairs = {pair.key: pair for pair in data_set.pairs}
    fused = sorted(key for key in pairs if all(key in found for found in outputs.values()))
    letters: dict[str, dict[str, str]] = {}
    for key in spread_keys(fused, count):
        job = next(iter(jobs.values()))
        sources = read_sources(pairs[key], job).slices[0]
        panels = [
            Panel(data_set.modality_first, picture_of(sources.first)),
            Panel(data_set.modality_second, picture_of(sources.second)),
            *(Panel(name, _published(outputs[name][key], job)) for name in outputs),
        ]
        if hidden:
            digest = hashlib.sha256(f"{data_set.name}/{key}".encode()).digest()
            panels, letters[f"{data_set.name}/{key}"] = blind(panels, 2, int.from_bytes(digest[:4], "big"))
        page = contact_sheet(f"{data_set.name}  {key}", panels)
        write_picture(join(folder, data_set.name, f"{key}.png"), page)
    return letters


def write_key(folder: str, letters: Mapping[str, Mapping[str, str]]) -> str:
    """Write which letter is which method on which sheet, and return where.

    Raises:
        StorageError: it cannot be written.
    """
    uri = join(folder, KEY_FILE)
    write_atomic(uri, (json.dumps(letters, indent=2, sort_keys=True) + "\n").encode())
    return uri


def write_trace(folder: str, data_set: DataSet, pair: SetPair, job: Job, prior: Prior) -> str:
    """Fuse one pair and write its steps as a sheet into ``folder``/<set>; returns where.

    Raises:
        ConfigurationError: the pair cannot be fused, with its code's sentence.
        StorageError: it cannot be read or written.
    """
    try:
        sources = read_sources(pair, job).slices[0]
    except PairError as error:
        raise ConfigurationError(f"trace: {data_set.name}/{pair.key} cannot be fused: {error}") from error
    first, second = (torch.from_numpy(np.ascontiguousarray(one))[None] for one in (sources.first, sources.second))
    config = job.fusion_config()
    trace = Trace(first.shape[2], first.shape[3], config.num_steps)
    fuse(first, second, prior, config, keys=[sources.key], callback=trace)
    uri = join(folder, data_set.name, f"{pair.key}.trace.png")
    write_picture(uri, trace_sheet(f"{data_set.name}  {pair.key}  {job.method_name}", trace.kept()))
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


def _published(uri: str, job: Job) -> NDArray[np.uint8]:
    pixels = read_raster(read_bytes(uri), max_pixels=job.max_pixels).pixels
    return pixels.astype(np.uint8)


def write_picture(uri: str, picture: Image.Image) -> None:
    """Write a page as PNG.

    Raises:
        StorageError: it cannot be written.
    """
    encoded = io.BytesIO()
    picture.save(encoded, "PNG")
    write_atomic(uri, encoded.getvalue())
