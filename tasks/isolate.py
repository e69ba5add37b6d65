"""A chunk in which a process died before: its pairs one by one, so that the one that kills it stands alone.

The batches have the sizes of an undisturbed run, so the pictures have its bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from ddfm_core.priors import Prior
from tasks.attempts import Deaths, Marks
from tasks.chunk import Chunk, Progress, batches_of_pairs, commit, fuse_prepared, publish_pair, read_pair
from tasks.codes import Code
from tasks.pair import FusedPair, PreparedPair, RefusedPair
from tasks.private_sources import locate
from tasks.settings import RunSettings


def fuse_isolated(
    chunk: Chunk,
    deaths: Deaths,
    marks: Marks,
    settings: RunSettings,
    prior: Prior,
    progress: Progress,
    confirm: Callable[[], None],
) -> None:
    """Read, fuse, publish and commit a chunk with a mark around each step on each pair.

    ``confirm`` is called before pictures are written and right before the commit; what it raises ends the work.

    A pair that is known to kill its process becomes a row with the code PROCESS_DIED. A decoder that dies is found
    by the second death, a batch that dies by the third: the second says only which batch it was.

    Raises:
        StorageError: the destination refuses a write; nothing of the chunk is committed then.
    """

    def marked(positions: list[int]) -> AbstractContextManager[None]:
        return marks.around(chunk.shard_id, chunk.chunk_id, positions)

    def untold(_: float) -> None:
        """Copies in a batch are no progress."""

    # A volume is a batch of its own, of which each part counts.
    told = progress.fused if settings.job.of_volumes else untold
    sources = locate(settings, chunk.rows)
    prepared: dict[int, PreparedPair] = {}
    outcomes: dict[int, FusedPair | RefusedPair] = {}
    for position, row in enumerate(chunk.rows):
        if deaths.is_poison(position, row.attempt):
            found = f"{deaths.by_position[position]} times in this run"
            outcomes[position] = RefusedPair(row, Code.PROCESS_DIED, f"{Code.PROCESS_DIED.sentence} ({found})")
            continue
        with marked([position]):
            pair = read_pair(row, sources[row.pair_key], settings)
        if isinstance(pair, PreparedPair):
            prepared[position] = pair
        else:
            outcomes[position] = pair
    progress.fused(len(outcomes))
    positions = list(prepared)
    for batch in batches_of_pairs(list(prepared.values()), settings):
        members = [positions[index] for index in batch]
        if any(deaths.is_suspect(position, chunk.rows[position].attempt) for position in members):
            for place, position in enumerate(members):
                with marked([position]):
                    # A batch of copies: the last bits of a result depend on the size of the batch.
                    copies = [prepared[position]] * len(members)
                    outcomes[position] = fuse_prepared(copies, settings, prior, told)[place]
                if told is untold:
                    progress.fused(1)
        else:
            with marked(members):
                fused = fuse_prepared([prepared[position] for position in members], settings, prior, told)
            outcomes.update(zip(members, fused, strict=True))
            if told is untold:
                progress.fused(len(members))
    confirm()
    # No pair is to blame when this mark stays.
    publishing = marks.set(chunk.shard_id, chunk.chunk_id, [])
    marks.keep(publishing)
    published = []
    for position in sorted(outcomes):
        with marked([position]):
            published.append(publish_pair(outcomes[position], settings, str(prior.device)))
    confirm()
    commit(chunk, published, settings, progress)
    marks.clear(publishing)
