"""The stores of a job: named without secrets, reached with keys from the environment or a Prefect block."""

import asyncio

import pytest

from flows.places import load_places, load_secret, use_places, use_secret
from tasks.codes import ConfigurationError
from tasks.job_file import make_job
from tasks.storage import configure_places, list_files, write_atomic
from tasks.storage.places import options_of


@pytest.fixture(autouse=True)
def nothing_configured():
    yield
    configure_places({})


def job(places):
    return make_job({"first": "a", "second": "b", "out": "c", "places": places})


def test_a_job_names_its_stores():
    use_places(job({"s3://a": {"endpoint_url": "https://a.example"}, "s3://b": {"profile": "lab"}}).places)
    assert options_of("s3://a/x").endpoint_url == "https://a.example"
    assert options_of("s3://b/x").profile == "lab"


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ({"access_key_id": "AKID", "secret_access_key": "hush"}, "the fields are endpoint_url"),
        ({"endpoint_url": "x", "secret_access_key": "hush"}, r"places.s3://a.endpoint_url: String should match"),
        ({"profile": "lab", "credentials_block": "keys"}, "one source of credentials"),
        ({"endpoint_url": "a.example"}, "places"),
    ],
)
def test_secrets_and_contradictions_are_refused(place, message):
    with pytest.raises(ConfigurationError, match=message) as refused:
        job({"s3://a": place})
    assert "hush" not in str(refused.value)


def test_a_block_needs_prefect():
    with pytest.raises(ConfigurationError, match="--no-prefect cannot read"):
        use_places(job({"s3://a": {"credentials_block": "keys"}}).places)


@pytest.mark.server
def test_keys_from_a_prefect_block(prefect_api, s3_bucket, s3_server, monkeypatch):
    from prefect.blocks.system import Secret

    for name in s3_server.environment():
        monkeypatch.delenv(name)
    Secret(value={"access_key_id": s3_server.access_key, "secret_access_key": s3_server.secret_key}).save(
        "archive-keys"
    )
    Secret(value={"access_key_id": "only"}).save("half-a-key")
    place = {"endpoint_url": s3_server.endpoint_url, "region": "us-east-1"}
    asyncio.run(load_places(job({s3_bucket: place | {"credentials_block": "archive-keys"}}).places))
    write_atomic(f"{s3_bucket}/x", b"1")
    assert [file.relative for file in list_files(s3_bucket)] == ["x"]
    with pytest.raises(ConfigurationError, match=r"secret_access_key: Field required"):
        asyncio.run(load_places(job({s3_bucket: place | {"credentials_block": "half-a-key"}}).places))
    with pytest.raises(ConfigurationError, match="has no Secret block absent"):
        asyncio.run(load_places(job({s3_bucket: place | {"credentials_block": "absent"}}).places))


def test_the_secret_of_pseudonyms_from_a_prefect_block(prefect_api, monkeypatch):
    from prefect.blocks.system import Secret

    monkeypatch.delenv("DDFM_PSEUDONYM_SECRET", raising=False)
    strict = make_job({"first": "a", "second": "b", "out": "c", "privacy": "strict", "pseudonym_block": "clinic"})
    with pytest.raises(ConfigurationError, match="has no Secret block clinic"):
        asyncio.run(load_secret(strict))
    with pytest.raises(ConfigurationError, match="cannot read the Prefect block clinic"):
        use_secret(strict)
    Secret(value="0123456789abcdef").save("clinic")
    pseudonyms = asyncio.run(load_secret(strict))
    assert pseudonyms is not None
    assert pseudonyms.secret == b"0123456789abcdef"
    assert asyncio.run(load_secret(make_job({"first": "a", "second": "b", "out": "c", "kind": "images"}))) is None
