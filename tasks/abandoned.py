"""Pictures that a run which was given up may have left under the rows of an earlier one.

Pictures are written before their rows. A process that dies between the two leaves pictures of new settings under rows
of old ones. The run's next try puts that right; where the job went back to the old settings instead, nobody would
notice, because those rows look settled.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from tasks.attempts import marked_chunks
from tasks.current import current_batches
from tasks.manifest import read_manifest
from tasks.outputs import OUTPUT_COLUMNS, has_sha256, named_outputs, output_folder
from tasks.results import committed_of_shard
from tasks.run_folder import history_folder, list_runs, run_method
from tasks.storage import exists, join, list_names

_READERS: Final = 16


def overwritten_pairs(dest: str, method: str, scratch: Path) -> list[str]:
    """Keys of pairs whose current row has another hash than their picture, among those that such runs had in work.

    Raises:
        StorageError: a run or the current rows cannot be read.
    """
    keys = _keys_in_work(dest, method)
    if not keys:
        return []
    wanted = pa.array(sorted(keys), pa.string())
    found: list[str] = []
    with ThreadPoolExecutor(_READERS) as pool:
        for table in current_batches(dest, method, scratch, OUTPUT_COLUMNS):
            outputs = list(named_outputs(table.filter(pc.is_in(table["pair_key"], value_set=wanted)), dest, method))
            right = pool.map(lambda one: has_sha256(join(output_folder(dest, method), one.path), one.sha256), outputs)
            found += [one.pair_key for one, is_it in zip(outputs, right, strict=True) if not is_it]
    return list(dict.fromkeys(found))


def _keys_in_work(dest: str, method: str) -> set[str]:
    """Pairs of chunks with a start mark and without rows, in runs that are neither finished nor folded away."""
    folded = set(list_names(history_folder(dest)))
    keys: set[str] = set()
    for run in list_runs(dest):
        if f"{run.run_id}.parquet" in folded or not exists(run.manifest_uri) or run_method(run) != method:
            continue
        for shard_id, chunk_id in marked_chunks(run):
            if not committed_of_shard(run, shard_id, {chunk_id}):
                rows = read_manifest(run, shard_id)
                keys.update(rows.filter(pc.equal(rows["chunk_id"], chunk_id))["pair_key"].to_pylist())
    return keys
