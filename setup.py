"""The release's number stands in one place, Cargo.toml; everything else is in pyproject.toml."""

import tomllib
from pathlib import Path

from setuptools import setup

with (Path(__file__).parent / "Cargo.toml").open("rb") as file:
    setup(version=tomllib.load(file)["workspace"]["package"]["version"])
