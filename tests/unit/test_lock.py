"""requirements/*.txt: what is installed, release by release; it agrees with pyproject.toml, and names no host."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ("run", "build", "dev")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
RENEW = "run make lock"


def locked(name: str) -> dict[str, Requirement]:
    """The pinned requirements of requirements/NAME.txt, each of which has hashes."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    entries = re.sub(r"^ *#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
    found: dict[str, Requirement] = {}
    for entry in entries:
        requirement, *hashes = re.split(r"\s+--hash=", entry.strip())
        assert hashes, f"{requirement} has no hash"
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", one) for one in hashes), requirement
        pinned = Requirement(requirement)
        assert re.fullmatch(r"==[^=*]+", str(pinned.specifier)), f"{requirement} names no single release"
        found[canonicalize_name(pinned.name)] = pinned
    return found


def asked_for(name: str) -> list[Requirement]:
    """What requirements/NAME.txt has to contain."""
    project, build = PROJECT["project"], PROJECT["build-system"]["requires"]
    extras = project["optional-dependencies"]
    lines = {
        "run": project["dependencies"],
        "build": [*build, "pip"],
        "dev": [*project["dependencies"], *extras["test"], *extras["dev"], *build, "pip"],
    }[name]
    requirements = map(Requirement, lines)
    return [requirement for requirement in requirements if canonicalize_name(requirement.name) != project["name"]]


@pytest.mark.parametrize("name", LOCKS)
def test_lock_has_what_the_project_asks_for(name: str) -> None:
    pins = locked(name)
    for requirement in asked_for(name):
        pinned = pins.get(canonicalize_name(requirement.name))
        assert pinned is not None, f"{requirement} is not in requirements/{name}.txt: {RENEW}"
        (release,) = pinned.specifier
        assert requirement.specifier.contains(release.version), f"{requirement}, but {pinned} is locked: {RENEW}"


@pytest.mark.parametrize("name", ["run", "build"])
def test_what_is_tested_is_what_runs(name: str) -> None:
    tested = locked("dev")
    assert {pin: str(requirement) for pin, requirement in locked(name).items() if tested.get(pin) != requirement} == {}


def test_build_requirements_are_pyprojects() -> None:
    lines = (ROOT / "requirements" / "build.in").read_text().splitlines()
    asked = {str(Requirement(line)) for line in lines if not line.startswith("#")}
    assert {str(Requirement(line)) for line in PROJECT["build-system"]["requires"]} < asked


@pytest.mark.parametrize("name", LOCKS)
def test_lock_names_no_host(name: str) -> None:
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    assert "://" not in text
    assert not re.search(r"^\s*-", re.sub(r"^ *--hash=.*\n", "", text, flags=re.MULTILINE), re.MULTILINE)


def test_image_is_built_by_the_pinned_rust() -> None:
    channel = tomllib.loads((ROOT / "rust-toolchain.toml").read_text())["toolchain"]["channel"]
    assert f"ARG BUILDER=rust:{channel}-slim-bookworm\n" in (ROOT / "Dockerfile").read_text()
    oldest = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["rust-version"]
    assert tuple(map(int, oldest.split("."))) <= tuple(map(int, channel.split(".")))
