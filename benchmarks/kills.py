"""Kill a run again and again, and compare what is left with a run that nobody disturbed.

    python benchmarks/kills.py --kills 25 --pairs 300

An archive on a real S3 server (the Ceph gateway of the tests) is fused with the bundled prior. The process gets
SIGKILL at random moments and the command is given again. Meanwhile a reader polls the destination and decodes
everything that it sees. At the end every pair must have one current row and one picture, byte for byte that of the
calm run, and one more run must find nothing to do.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pyarrow.parquet as pq
from PIL import Image

from tests import servers
from tests.archives import put_archive


class Reader(threading.Thread):
    """Polls a prefix and decodes every new picture and table."""

    def __init__(self, server: servers.S3Server, bucket: str, prefix: str) -> None:
        super().__init__(daemon=True)
        self.server, self.client = server, server.client()
        self.bucket, self.prefix = bucket, prefix
        self.stopped = threading.Event()
        self.decoded, self.broken = 0, []

    def run(self) -> None:
        """Poll until told to stop."""
        seen: dict[str, str] = {}
        while not self.stopped.wait(0.2):
            for key, tag in self.server.objects(self.bucket, self.prefix).items():
                if seen.get(key) != tag:
                    seen[key] = tag
                    self.decode(key)

    def decode(self, key: str) -> None:
        """Take one object as a reader of the destination would."""
        try:
            content = self.client.get_object(Bucket=self.bucket, Key=self.prefix + key)["Body"].read()
        except self.client.exceptions.NoSuchKey:
            return
        try:
            if key.endswith(".png"):
                Image.open(io.BytesIO(content)).load()
            elif key.endswith(".parquet"):
                pq.read_table(io.BytesIO(content))
            self.decoded += 1
        except Exception as error:  # noqa: BLE001 - whatever a reader of the destination could run into
            self.broken.append(f"{key}: {error!r}")


def main() -> None:
    """Run it and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--pairs", type=int, default=300)
    parser.add_argument("--size", type=int, nargs=2, default=(128, 112), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--longest", type=float, default=14.0, help="seconds before a kill, at most")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    moments = random.Random(arguments.seed)
    with servers.s3_server() as server, tempfile.TemporaryDirectory() as folder:
        client = server.client()
        bucket = servers.create_bucket(server, "kills").removeprefix("s3://")
        put_archive(client, bucket, arguments.pairs, tuple(arguments.size))
        environment = os.environ | server.environment()

        def command(dest: str) -> list[str]:
            job = Path(folder) / f"{dest}.yaml"
            job.write_text(
                f"first: s3://{bucket}/ir\nsecond: s3://{bucket}/vi\nout: s3://{bucket}/{dest}\n"
                f"steps: {arguments.steps}\nbatch: 4\nchunk_pairs: 12\nshard_pairs: 120\n"
            )
            return [sys.executable, "-m", "flows.cli", "fuse", "--config", str(job), "--no-prefect"]

        began = time.monotonic()
        subprocess.run(command("calm"), env=environment, check=True)
        calm_seconds = time.monotonic() - began

        reader = Reader(server, bucket, "killed/")
        reader.start()
        began, kills, early = time.monotonic(), 0, 0
        while kills < arguments.kills:
            process = subprocess.Popen(
                command("killed"), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
            try:
                process.wait(moments.uniform(0.5, arguments.longest))
                early += 1
                if early > 3:
                    break
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                kills += 1
                committed = [key for key in server.objects(bucket, "killed/_ddfm/runs/") if "/results/" in key]
                print(f"kill {kills}: {len(committed)} chunks committed", flush=True)
        last = subprocess.run(command("killed"), env=environment, check=False, capture_output=True, text=True)
        killed_seconds = time.monotonic() - began
        print(last.stdout[-1500:], last.stderr[-1500:])
        again = subprocess.run(command("killed"), env=environment, check=False, capture_output=True, text=True)
        reader.stopped.set()
        reader.join()

        calm, killed = (server.objects(bucket, f"{dest}/fused/") for dest in ("calm", "killed"))
        tables = server.objects(bucket, "killed/_ddfm/metrics/current/")
        rows = [
            row
            for key in tables
            for row in pq.read_table(
                io.BytesIO(client.get_object(Bucket=bucket, Key=f"killed/_ddfm/metrics/current/{key}")["Body"].read())
            ).to_pylist()
        ]
        wrong = 0
        for row in rows:
            key = row["output_uri"].removeprefix(f"s3://{bucket}/") if row["output_uri"] else ""
            content = client.get_object(Bucket=bucket, Key=key)["Body"].read() if key else b""
            wrong += hashlib.sha256(content).hexdigest() != row["output_sha256"]
        marks = [key for key in server.objects(bucket, "killed/_ddfm/runs/") if "/attempts/" in key]
        print(f"| kills | {kills} (and {early} runs that ended before theirs) |")
        print("|---|---|")
        print(f"| seconds, calm / killed | {calm_seconds:.0f} / {killed_seconds:.0f} |")
        print(f"| pairs, pictures calm / killed | {arguments.pairs}, {len(calm)} / {len(killed)} |")
        print(f"| pictures that differ from the calm run | {sum(calm[key] != killed.get(key) for key in calm)} |")
        print(
            f"| current rows, keys, not ok | {len(rows)}, {len({row['pair_key'] for row in rows})}, "
            f"{sum(row['status'] != 'ok' for row in rows)} |"
        )
        print(f"| rows whose picture has another hash | {wrong} |")
        print(f"| files decoded by the polling reader, broken | {reader.decoded}, {len(reader.broken)} |")
        print(f"| marks left | {len(marks)} |")
        print(f"| exit code of the last run, of one more | {last.returncode}, {again.returncode} |")
        print(f"| one more run says | {again.stdout.strip().splitlines()[-1]} |")
        print("\n".join(reader.broken[:5]))


if __name__ == "__main__":
    main()
