"""From S3 to S3 on a real server: killed once, resumed, and nothing left to do."""

import os
import subprocess
import sys
import time

import pytest
import s3fs

from tests.archives import ddfm, make_archive, pictures

pytestmark = pytest.mark.server


def test_fuse_from_s3_to_s3_with_a_kill(s3_bucket, s3_environment, tmp_path):
    root = make_archive(tmp_path, 6)
    store = s3fs.S3FileSystem()
    for side in ("ir", "vi"):
        store.put(f"{root}/{side}/", f"{s3_bucket}/{side}/", recursive=True)
    local = ddfm(
        "fuse", f"{root}/ir", f"{root}/vi", "--out", f"{root}/out", "--steps", "2", "--batch", "1", "--no-prefect"
    )
    assert local.returncode == 0, local.stderr

    job = tmp_path / "job.yaml"
    job.write_text(
        f"first: {s3_bucket}/ir\nsecond: {s3_bucket}/vi\nout: {s3_bucket}/out\nsteps: 2\nbatch: 1\nchunk_pairs: 1\n"
    )
    command = ["fuse", "--config", str(job), "--no-prefect"]
    environment = os.environ | s3_environment
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", *command], env=environment, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        store.invalidate_cache()
        if len(store.glob(f"{s3_bucket}/out/_ddfm/runs/*/results/*.parquet")) >= 2:
            break
        time.sleep(0.02)
    process.kill()
    process.wait()
    answer = ddfm(*command, env=environment)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    store.invalidate_cache()
    store.get(f"{s3_bucket}/out/fused/", f"{tmp_path}/fetched/", recursive=True)
    assert pictures(tmp_path / "fetched") == pictures(root / "out/fused")
    answer = ddfm(*command, env=environment)
    assert answer.returncode == 0
    assert "nothing to do: 0 pairs planned, 6 are settled (6 ok)" in answer.stdout


def test_wrong_credentials_are_named(s3_bucket, s3_environment, tmp_path):
    environment = os.environ | s3_environment | {"AWS_SECRET_ACCESS_KEY": "wrong"}
    answer = ddfm(
        "fuse", f"{s3_bucket}/ir", f"{s3_bucket}/vi", "--out", f"{tmp_path}/o", "--no-prefect", env=environment
    )
    assert answer.returncode == 3
    assert s3_bucket in answer.stderr
    assert "Traceback" not in answer.stderr


def test_credentials_that_end_in_the_middle_stop_the_run_and_not_its_pairs(tmp_path, s3_bucket, s3_server, monkeypatch):
    """The keys of the sources end after the first chunk; those of the destination, a local folder, do not matter."""
    from flows.fuse_archive import run_archive
    from tasks import image_pair
    from tasks.current import current_rows
    from tasks.job_file import make_job
    from tasks.storage import StorageError
    from tests.runs import SilentWatcher

    client = s3_server.client()
    root = make_archive(tmp_path, 6)
    for path in [*root.glob("ir/*.png"), *root.glob("vi/*.png")]:
        client.put_object(
            Bucket=s3_bucket.removeprefix("s3://"), Key=str(path.relative_to(root)), Body=path.read_bytes()
        )
    settings = {"first": f"{s3_bucket}/ir", "second": f"{s3_bucket}/vi", "out": f"{tmp_path}/out", "steps": 1}
    job = make_job(settings | {"chunk_pairs": 2, "readers": 1})
    right, read = image_pair.read_bytes, []

    def reading(uri):
        read.append(uri)
        if len(read) == 5:
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "ended")
        return right(uri)

    with monkeypatch.context() as patch:
        patch.setattr(image_pair, "read_bytes", reading)
        with pytest.raises(StorageError, match=r"access was refused \(SignatureDoesNotMatch"):
            run_archive(job, SilentWatcher())
    assert {row["status"] for row in current_rows(job.out, "adaptive", columns=None).to_pylist()} <= {"ok"}
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.secret_key)
    run_archive(job, SilentWatcher())
    assert [row["status"] for row in current_rows(job.out, "adaptive", columns=None).to_pylist()] == ["ok"] * 6
