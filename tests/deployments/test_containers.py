"""The compose files, the Kubernetes manifests and the Dockerfile, against what they are read by and what they name."""

import re
import tomllib
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from compose_spec import PyCompose

from deployments.job_templates import USER
from deployments.work_pools import POOLS

REPOSITORY = Path(__file__).parents[2]
FOLDER = REPOSITORY / "deployments"
DOCKERFILE = (FOLDER / "Dockerfile").read_text()
POOL_NAMES = {pool.name for pool in POOLS}


def compose(name):
    document = yaml.safe_load((FOLDER / name).read_text())
    return document, PyCompose.from_yaml(yaml.safe_dump(document))


def manifests():
    return list(yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text()))


def pools_of(command):
    return {command[index + 1] for index, word in enumerate(command) if word == "--pool"}


@pytest.mark.parametrize("name", ["compose.yaml", "compose.redis.yaml"])
def test_compose_files_follow_the_specification(name):
    _, parsed = compose(name)
    assert "server" in parsed.service_names()


def test_compose_workers_serve_pools_that_set_up_makes():
    document, _ = compose("compose.yaml")
    named = [pools_of(service.get("command", [])) for service in document["services"].values()]
    assert set().union(*named) <= POOL_NAMES
    images = re.findall(r'^CMD \["prefect", .*"--pool", "(\w+)"', DOCKERFILE, re.MULTILINE)
    assert set(images) == {"cpu", "gpu"}


def test_compose_says_no_secret():
    text = (FOLDER / "compose.yaml").read_text()
    for name in ("POSTGRES_PASSWORD", "AWS_SECRET_ACCESS_KEY", "MINIO_ROOT_PASSWORD", "DDFM_PSEUDONYM_SECRET"):
        assert re.findall(rf"{name}: (.*)", text), name
        assert all(value.startswith("${") for value in re.findall(rf"{name}: (.*)", text)), name
    example = (FOLDER / "compose.env.example").read_text()
    for name in set(re.findall(r"\$\{(\w+):\?", text)):
        assert f"{name}=\n" in example


@pytest.mark.parametrize("manifest", manifests(), ids=lambda manifest: manifest["kind"])
def test_kubernetes_takes_the_manifests(manifest):
    kubernetes_validate.validate(manifest, "1.30", strict=True)


def test_kubernetes_workers_serve_pools_that_set_up_makes():
    (deployment,) = [manifest for manifest in manifests() if manifest["kind"] == "Deployment"]
    containers = deployment["spec"]["template"]["spec"]["containers"]
    assert set().union(*(pools_of(container["command"]) for container in containers)) <= POOL_NAMES


def test_the_image_holds_every_package_and_no_more():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    packages = {package.partition(".")[0] for package in project["tool"]["setuptools"]["packages"]}
    copied = {
        source for line in re.findall(r"^COPY (?!--from)(.*)", DOCKERFILE, re.MULTILINE) for source in line.split()[:-1]
    }
    assert packages <= copied
    assert all((REPOSITORY / source).exists() for source in copied)
    allowed = {line[1:] for line in (FOLDER / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"}
    assert allowed == copied


def test_the_image_runs_as_the_user_that_the_templates_name():
    assert f"--uid {USER} " in DOCKERFILE
    assert f"USER {USER}\n" in DOCKERFILE
