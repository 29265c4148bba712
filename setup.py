"""What pyproject.toml cannot say: the release's number is in one place, Cargo.toml, and wheels suit any Python 3."""

import tomllib
from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.editable_wheel import editable_wheel


class Wheel(bdist_wheel):
    """The programs are executables, not extension modules: only the platform matters."""

    def get_tag(self) -> tuple[str, str, str]:
        """Interpreter, ABI and platform."""
        return "py3", "none", super().get_tag()[2]


class EditableWheel(editable_wheel):
    """A link to csi/ and nothing else: tests/support/setup has cargo build the programs, which is done in seconds."""

    def run(self) -> None:
        """Makes it, without the programs that pyproject.toml lists."""
        self.distribution.rust_extensions = None
        super().run()


with (Path(__file__).parent / "Cargo.toml").open("rb") as file:
    version = tomllib.load(file)["workspace"]["package"]["version"]
setup(version=version, cmdclass={"bdist_wheel": Wheel, "editable_wheel": EditableWheel})
