from __future__ import annotations

import json
import os
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from tasks.codes import ConfigurationError
from tasks.storage import (
    PlaceOptions,
    PlaceWithKeys,
    StorageError,
    configure_places,
    exists,
    list_files,
    list_names,
    read_bytes,
    read_needed,
    read_versioned,
    write_atomic,
)
from tasks.storage.places import options_of
from tests import servers


@pytest.fixture(autouse=True)
def nothing_configured() -> Iterator[None]:
    yield
    configure_places({})


def options(**fields: object) -> PlaceOptions:
    kind = PlaceWithKeys if {"access_key_id", "secret_access_key"} & fields.keys() else PlaceOptions
    return kind.model_validate(fields)


def test_the_longest_prefix_wins_and_ends_where_a_name_does() -> None:
    configure_places(
        {
            "s3://archive/": options(region="one"),
            "s3://archive/deep/er": options(region="two"),
            "s3a://alias": options(region="three"),
        }
    )
    regions = {
        "s3://archive": "one",
        "s3://archive/x.png": "one",
        "s3a://archive/x.png": "one",
        "s3://archive/deep/er": "two",
        "s3://archive/deep/er/x": "two",
        "s3://archive/deep/erx": "one",
        "s3://archive-2/x": None,
        "s3://alias/x": "three",
        "/archive/x": None,
    }
    assert {uri: options_of(uri).region for uri in regions} == regions
    configure_places({"s3://other": options(region="four")})
    assert options_of("s3://archive/x").region is None


@pytest.mark.parametrize("prefix", ["s3://", "/data", "gs://bucket", "archive"])
def test_only_s3_buckets_have_options(prefix: str) -> None:
    with pytest.raises(ConfigurationError, match="must be an S3 URL"):
        configure_places({prefix: options()})


def test_secrets_are_neither_printed_nor_serialised() -> None:
    place = options(access_key_id="AKID", secret_access_key="hush-hush", session_token="token-token")
    for text in (repr(place), str(place), place.model_dump_json(), json.dumps(place.model_dump(mode="json"))):
        assert "hush" not in text
        assert "AKID" not in text
        assert "token-token" not in text
    with pytest.raises(ValidationError) as refused:
        options(secret_access_key="hush-hush")
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"profile": "lab", "anonymous": True},
        {"credentials_variables": "LAB_", "profile": "lab"},
        {"access_key_id": "a", "secret_access_key": "b", "anonymous": True},
        {"access_key_id": "a"},
        {"endpoint_url": "localhost:9000"},
        {"credentials_variables": "LAB-"},
        {"read_timeout_s": 0},
        {"unknown": 1},
    ],
)
def test_contradictions_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        options(**fields)


# Against a server


@pytest.fixture
def bucket(s3_bucket: str, s3_server: servers.S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """One that the environment does not lead to."""
    for name in s3_server.environment():
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    return s3_bucket


@pytest.mark.server
def test_each_way_to_give_credentials(
    bucket: str, s3_server: servers.S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    credentials = tmp_path / "credentials"
    credentials.write_text(
        f"[lab]\naws_access_key_id = {s3_server.access_key}\naws_secret_access_key = {s3_server.secret_key}\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
    monkeypatch.setenv("LAB_AWS_ACCESS_KEY_ID", s3_server.access_key)
    monkeypatch.setenv("LAB_AWS_SECRET_ACCESS_KEY", s3_server.secret_key)
    ways: list[dict[str, object]] = [
        {"access_key_id": s3_server.access_key, "secret_access_key": s3_server.secret_key},
        {"profile": "lab"},
        {"credentials_variables": "LAB_"},
    ]
    for number, way in enumerate(ways):
        configure_places({bucket: options(endpoint_url=s3_server.endpoint_url, region="us-east-1", **way)})
        write_atomic(f"{bucket}/{number}", b"x")
        assert read_bytes(f"{bucket}/{number}") == b"x"
    configure_places({bucket: options(endpoint_url=s3_server.endpoint_url, anonymous=True)})
    with pytest.raises(StorageError, match="check that the bucket is public, or give credentials"):
        list(list_files(bucket))


@pytest.mark.server
def test_two_accounts_in_one_process(bucket: str, s3_server: servers.S3Server) -> None:
    right = options(
        endpoint_url=s3_server.endpoint_url,
        access_key_id=s3_server.access_key,
        secret_access_key=s3_server.secret_key,
    )
    wrong = right.model_copy(update={"secret_access_key": SecretStr("b")})
    configure_places(
        {f"{bucket}/a": right, f"{bucket}/b": wrong, f"{bucket}/c": options(endpoint_url="http://127.0.0.1:1")}
    )
    write_atomic(f"{bucket}/a/x", b"x")
    assert [file.relative for file in list_files(f"{bucket}/a")] == ["x"]
    with pytest.raises(StorageError, match="access was refused"):
        list(list_files(f"{bucket}/b"))
    assert read_bytes(f"{bucket}/a/x") == b"x"


CALLS: dict[str, Callable[[str], object]] = {
    "list": lambda uri: list(list_files(uri)),
    "names": list_names,
    "read": read_needed,
    "exists": exists,
    "write": lambda uri: write_atomic(uri, b"x"),
    "versioned": read_versioned,
}


def refusal(call: Callable[[str], object], uri: str) -> str:
    """The sentence, which must come within ten seconds."""
    started = time.monotonic()
    with pytest.raises(StorageError) as caught:
        call(uri)
    assert time.monotonic() - started < 10
    sentence = str(caught.value)
    assert sentence.startswith(f"{uri}: ")
    assert sentence.endswith(".")
    assert "\n" not in sentence
    return sentence


@pytest.mark.server
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_wrong_credentials_say_what_to_check(
    bucket: str, s3_server: servers.S3Server, call: Callable[[str], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAB_AWS_ACCESS_KEY_ID", s3_server.access_key)
    monkeypatch.setenv("LAB_AWS_SECRET_ACCESS_KEY", "wrong")
    configure_places({bucket: options(endpoint_url=s3_server.endpoint_url, credentials_variables="LAB_")})
    sentence = refusal(call, f"{bucket}/x")
    assert "access was refused" in sentence
    assert "check LAB_AWS_ACCESS_KEY_ID, LAB_AWS_SECRET_ACCESS_KEY and the rights of that key" in sentence
    monkeypatch.delenv("LAB_AWS_SECRET_ACCESS_KEY")
    assert "no LAB_AWS_SECRET_ACCESS_KEY" in refusal(call, f"{bucket}/x")
    configure_places({bucket: options(endpoint_url=s3_server.endpoint_url)})
    assert "check AWS_ACCESS_KEY_ID" in refusal(call, f"{bucket}/x")
    configure_places({bucket: options(endpoint_url=s3_server.endpoint_url, profile="lab")})
    assert "check the profile lab" in refusal(call, f"{bucket}/x")


@pytest.mark.server
def test_a_missing_bucket_is_told(s3_environment: dict[str, str]) -> None:
    uri = f"s3://test-{uuid.uuid4().hex[:12]}"
    for call in (CALLS["list"], CALLS["write"], CALLS["read"], CALLS["versioned"]):
        assert "its bucket does not exist; check the bucket" in refusal(call, f"{uri}/x")
    assert not exists(f"{uri}/x")
    assert not exists(uri)
    with pytest.raises(StorageError, match="its bucket does not exist"):
        read_bytes(f"{uri}/x")


@pytest.mark.parametrize("call", [CALLS["list"], CALLS["write"], CALLS["exists"]])
def test_an_unreachable_endpoint_is_told(call: Callable[[str], object]) -> None:
    uri = f"s3://test-{uuid.uuid4().hex[:12]}"
    configure_places({uri: options(endpoint_url="http://127.0.0.1:1", access_key_id="a", secret_access_key="b")})
    sentence = refusal(call, f"{uri}/x")
    assert "does not answer" in sentence
    assert "check the network and the endpoint http://127.0.0.1:1." in sentence


@pytest.mark.server
def test_a_read_only_bucket_is_told(s3_bucket: str, s3_server: servers.S3Server) -> None:
    write_atomic(f"{s3_bucket}/a", b"x")
    name = s3_bucket.removeprefix("s3://")
    deny = {"Effect": "Deny", "Principal": "*", "Action": ["s3:PutObject"], "Resource": [f"arn:aws:s3:::{name}/*"]}
    s3_server.client().put_bucket_policy(Bucket=name, Policy=json.dumps({"Version": "2012-10-17", "Statement": [deny]}))
    assert read_bytes(f"{s3_bucket}/a") == b"x"
    assert "access was refused (AccessDenied); check AWS_ACCESS_KEY_ID" in refusal(CALLS["write"], f"{s3_bucket}/b")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system, which only root can")
def test_a_read_only_disk_is_told(tmp_path: Path) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", tmp_path], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"mount was refused: {mounted.stderr.strip()}")
    try:
        sentence = refusal(CALLS["write"], str(tmp_path / "out/a.png"))
        assert "cannot be written (Read-only file system); choose a destination that can" in sentence
    finally:
        subprocess.run(["umount", tmp_path], check=True)
