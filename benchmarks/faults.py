"""An archive fused through a storage that fails: how much longer it takes, and whether anything is lost.

    python benchmarks/faults.py --pairs 300

Between the program and a real S3 server (the Ceph gateway of the tests) stands a proxy that answers 5 % of the
requests with 500, 503 or SlowDown, cuts 2 % of the bodies and stalls 1 % for 30 s. The same archive is fused without
and with it; then come wrong credentials, a missing bucket, a server that does not answer and a destination that may
not be written, each with the sentence that the user sees and the seconds until it comes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from typing import Any

from tests import servers
from tests.archives import put_archive
from tests.fault_proxy import fault_proxy

Environment = dict[str, str]


def fuse(
    bucket: str, dest: str, environment: Environment, *options: str
) -> tuple[float, subprocess.CompletedProcess[str]]:
    """Seconds and outcome of the command as a user gives it."""
    command = [sys.executable, "-m", "flows.cli", "fuse", f"s3://{bucket}/ir", f"s3://{bucket}/vi", "--out", dest]
    began = time.monotonic()
    answer = subprocess.run(
        [*command, "--no-prefect", *options], env=environment, check=False, capture_output=True, text=True
    )
    return time.monotonic() - began, answer


def summary_of(server: servers.S3Server, bucket: str, dest: str) -> dict[str, Any]:
    """The summary of the newest run."""
    keys = [key for key in server.objects(bucket, f"{dest}/_ddfm/runs/") if key.endswith("summary.json")]
    content = server.client().get_object(Bucket=bucket, Key=f"{dest}/_ddfm/runs/{max(keys)}")["Body"].read()
    found: dict[str, Any] = json.loads(content)
    return found


def main() -> None:
    """Run it and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=300)
    parser.add_argument("--size", type=int, nargs=2, default=(64, 64), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--stall", type=float, default=30.0, help="seconds")
    arguments = parser.parse_args()
    bucket = "faults"
    with servers.s3_server() as server:
        client = server.client()
        servers.create_bucket(server, bucket)
        put_archive(client, bucket, arguments.pairs, tuple(arguments.size))
        environment = os.environ | server.environment()
        calm_seconds, calm = fuse(bucket, f"s3://{bucket}/calm", environment, "--steps", "2")
        with fault_proxy(
            server.endpoint_url, seed=1, error_share=0.05, cut_share=0.02, stall_share=0.01, stall_s=arguments.stall
        ) as proxy:
            behind = environment | {"AWS_ENDPOINT_URL": proxy.endpoint_url}
            seconds, answer = fuse(bucket, f"s3://{bucket}/through", behind, "--steps", "2")
            print(f"proxy: {proxy.counts}")
        found = {dest: server.objects(bucket, f"{dest}/fused/") for dest in ("calm", "through")}
        summary = summary_of(server, bucket, "through")
        print(answer.stdout[-600:], answer.stderr[-600:])
        print(f"| seconds without / with faults | {calm_seconds:.0f} / {seconds:.0f} |\n|---|---|")
        print(f"| exit codes | {calm.returncode} / {answer.returncode} |")
        print(f"| rows by status | {summary['statuses']} |")
        print(f"| retries counted | {summary.get('retries')} |")
        print(
            f"| pictures | {len(found['calm'])} / {len(found['through'])}, equal: {found['calm'] == found['through']} |"
        )
        uploads = client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
        print(f"| uploads left open | {len(uploads)} |\n")

        refusals = {
            "wrong secret": (environment | {"AWS_SECRET_ACCESS_KEY": "wrong"}, f"s3://{bucket}/out"),
            "unknown key": (environment | {"AWS_ACCESS_KEY_ID": "NOBODY"}, f"s3://{bucket}/out"),
            "missing bucket": (environment, "s3://no-such-bucket/out"),
            "no server": (environment | {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, f"s3://{bucket}/out"),
            "read-only folder": (environment, "/proc/out"),
        }
        print("| place | seconds | exit | what the user reads |\n|---|---|---|---|")
        for name, (settings, dest) in refusals.items():
            seconds, answer = fuse(bucket, dest, settings, "--steps", "2")
            said = answer.stderr.strip().splitlines() or answer.stdout.strip().splitlines()
            print(f"| {name} | {seconds:.1f} | {answer.returncode} | {' / '.join(said)[:400]} |")


if __name__ == "__main__":
    main()
