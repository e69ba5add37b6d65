"""What the pipeline costs around the core: pairs of 64 x 64, the fusion replaced by a mean, metrics left out.

    python benchmarks/around_the_core.py --pairs 20000                 local disk
    python benchmarks/around_the_core.py --pairs 20000 --s3            a real S3 server on the same cores
    python benchmarks/around_the_core.py --pairs 2000 --profile        where the time goes, one stage after the other

Prints milliseconds per pair of each phase (index and plan; read, normalise, encode, write and commit; reconcile and
compact), of wall and CPU time, and the CPU time of the server.
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import io
import os
import pstats
import resource
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

import tasks.chunk
import tasks.image_pair
from ddfm_core.metrics import METRIC_NAMES
from ddfm_core.priors import load_prior
from flows.fuse_archive import check_inputs, finish, fuse_here, plan_runs
from flows.fuse_shard import Stages
from tasks.chunk import Progress, publish_chunk, read_chunk
from tasks.fuse import Fused
from tasks.job import Job
from tasks.job_file import make_job
from tasks.pair import FusedPair, PreparedPair, RefusedPair
from tasks.private_sources import locate
from tasks.settings import RunSettings
from tests import servers

SIDE = 64


class Silence:
    """Watches and follows a run without a word."""

    def fused(self, pairs: int) -> None:
        """Nothing."""

    def committed(self, rows: object) -> None:
        """Nothing."""

    def waiting(self, read: int, publish: int) -> None:
        """Nothing."""

    def indexed(self, counts: object) -> None:
        """Nothing."""

    def begin(self, planned: object) -> contextlib.AbstractContextManager[Progress]:
        """This, for the time of the run."""
        del planned
        return contextlib.nullcontext(self)

    def finish(self, summary: object) -> None:
        """Nothing."""


def mean_of(
    pairs: list[PreparedPair | RefusedPair], settings: RunSettings, prior: object, progress: Progress
) -> list[FusedPair | RefusedPair]:
    """In place of the fusion."""
    del settings, prior
    progress.fused(len(pairs))
    return [
        pair
        if isinstance(pair, RefusedPair)
        else FusedPair(pair, tuple(Fused((one.first + one.second) / 2, 0.0) for one in pair.slices))
        for pair in pairs
    ]


def pictures(pairs: int) -> Iterator[tuple[str, bytes]]:
    """(relative path, PNG) of an archive of smooth pictures; a hundred different ones in turn."""
    generator = np.random.default_rng(0)
    contents = []
    for _ in range(100):
        coarse = Image.fromarray(generator.integers(0, 256, (5, 5), dtype=np.uint8))
        content = io.BytesIO()
        coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(content, "PNG")
        contents.append(content.getvalue())
    for number in range(pairs):
        for shift, side in enumerate(("ir", "vi")):
            yield f"{side}/{number // 1000:03}/{number:07}.png", contents[(number + shift) % 100]


def server_seconds(server: servers.S3Server | None) -> float:
    """CPU seconds that the server's processes have used."""
    total = 0.0
    for process in server.servers if server else ():
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def measure(job: Job, pairs: int, server: servers.S3Server | None) -> None:
    """Run the phases and print a table."""
    prior = load_prior("bundled")
    stages = Stages(read=read_chunk, fuse=mean_of, publish=publish_chunk)
    tasks.image_pair.measure = lambda *_: dict.fromkeys(METRIC_NAMES, 0.0)
    lines = []

    @contextlib.contextmanager
    def phase(name: str) -> Iterator[None]:
        wall, cpu, serving = time.perf_counter(), time.process_time(), server_seconds(server)
        yield
        spent = (time.perf_counter() - wall, time.process_time() - cpu, server_seconds(server) - serving)
        lines.append((name, *(1000 * seconds / pairs for seconds in spent)))

    runs = plan_runs(check_inputs(job), None, 1, Silence())
    with phase("index, plan"):
        planned = next(runs)
    with phase("read, normalise, encode, write, commit"):
        fuse_here(planned, prior, Silence(), stages, check=lambda: None)
    with phase("reconcile, compact"):
        finish(planned)
    print("| phase | wall ms/pair | CPU ms/pair | server CPU ms/pair |\n|---|---|---|---|")
    for name, *figures in [
        *lines,
        ("all", *(sum(column) for column in zip(*(line[1:] for line in lines), strict=True))),
    ]:
        print(f"| {name} | " + " | ".join(f"{figure:.3f}" for figure in figures) + " |")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


def profile(job: Job, lines: int) -> None:
    """Each stage of each chunk in this thread, under the profiler."""
    from flows.fuse_shard import shard_chunks

    tasks.image_pair.measure = lambda *_: dict.fromkeys(METRIC_NAMES, 0.0)
    planned = next(plan_runs(check_inputs(job), None, 1, Silence()))
    settings = planned.settings
    profiler = cProfile.Profile()
    for shard_id in planned.shard_ids:
        for chunk in shard_chunks(settings, shard_id):
            profiler.enable()
            sources = locate(settings, chunk.rows)
            read = [tasks.chunk.read_pair(row, sources[row.pair_key], settings) for row in chunk.rows]
            fused = mean_of(read, settings, None, Silence())
            pairs = [tasks.chunk.publish_pair(pair, settings, "cpu") for pair in fused]
            tasks.chunk.commit(chunk, pairs, settings, Silence())
            profiler.disable()
    pstats.Stats(profiler).sort_stats("tottime").print_stats(lines)


def main() -> None:
    """Make the archive, run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=20_000)
    parser.add_argument("--chunk-pairs", type=int, default=16)
    parser.add_argument("--readers", type=int, default=4)
    parser.add_argument("--s3", action="store_true", help="on the tests' S3 server instead of a local folder")
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(servers.s3_server()) if arguments.s3 else None
        if server is None:
            root = stack.enter_context(tempfile.TemporaryDirectory())
            for name, content in pictures(arguments.pairs):
                path = Path(root, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
        else:
            os.environ.update(server.environment())
            root = servers.create_bucket(server, "around")
            client = server.client()
            with ThreadPoolExecutor(8) as pool:
                for _ in pool.map(
                    lambda item: client.put_object(Bucket="around", Key=item[0], Body=item[1]),
                    pictures(arguments.pairs),
                ):
                    pass
        job = make_job({
            "first": f"{root}/ir", "second": f"{root}/vi", "out": f"{root}/out", "steps": 1,
            "chunk_pairs": arguments.chunk_pairs, "readers": arguments.readers,
        })  # fmt: skip
        if arguments.profile:
            profile(job, lines=25)
        else:
            measure(job, arguments.pairs, server)


if __name__ == "__main__":
    main()
