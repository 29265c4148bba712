"""The three places, the table of programs by place, and what is expected to be other on the mount."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
import tomllib
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.foreign.places import EXT4, KILLS, LIMIT_S, MOUNT, Place, killed_each_second
from tests.support.keeper import Keeper
from tests.support.leaks import no_leaks, require_sandbox
from tests.support.nas import Nas
from tests.support.paths import RESULTS

_EXPECTED = tomllib.loads((Path(__file__).parent / "expected.toml").read_text()).get("deviation", [])
_OUTCOMES = pytest.StashKey[dict[str, dict[str, str]]]()
PLACES = (EXT4, MOUNT, KILLS)


@pytest.fixture(scope="session", autouse=True)
def nothing_left() -> Iterator[None]:
    """Fails the session when it leaves anything behind."""
    require_sandbox()
    Path(tempfile.gettempdir()).chmod(0o755)  # some programs will not be root
    with no_leaks():
        yield


@pytest.fixture(scope="session")
def foreign_nas(nothing_left: None) -> Iterator[Nas]:
    """One NAS for all programs."""
    with Nas() as nas:
        for folder in (nas.folder, nas.folder / "exports"):
            folder.chmod(0o755)
        nas.export_folder().chmod(0o777)
        yield nas


@pytest.fixture(scope="session")
def mounts(foreign_nas: Nas) -> Iterator[dict[str, tuple[Keeper, Path]]]:
    """Two mounts, so that the killed one's history is its own."""
    with (
        Keeper() as calm,
        Keeper() as stormy,
        calm.mounted(foreign_nas.url) as one,
        stormy.mounted(foreign_nas.url) as two,
    ):
        for keeper in (calm, stormy):
            keeper.folder.chmod(0o755)
        yield {MOUNT: (calm, one), KILLS: (stormy, two)}


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """An empty folder in each of the three places."""
    if request.param == EXT4:
        with tempfile.TemporaryDirectory(prefix="efc-foreign-") as name:
            Path(name).chmod(0o1777)
            yield Place(kind=EXT4, folder=Path(name))
        return
    keeper, mount = request.getfixturevalue("mounts")[request.param]
    folder = Path(tempfile.mkdtemp(prefix="foreign-", dir=mount))
    folder.chmod(0o1777)
    try:
        if request.param == MOUNT:
            yield Place(kind=MOUNT, folder=folder)
        else:
            with killed_each_second(keeper, mount) as kills:
                yield Place(kind=KILLS, folder=folder, kills=kills)
    finally:
        _remove(folder)


def _remove(folder: Path) -> None:
    """Fails if it is not empty at once when its last file is removed, and says what is still there after a while."""
    try:
        shutil.rmtree(folder)
    except OSError as error:
        time.sleep(10)
        left = [str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()]
        shutil.rmtree(folder, ignore_errors=True)
        raise AssertionError(f"{error}; 10 s later there were {left}") from None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Each has time for what a program may take."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent) and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(2 * LIMIT_S))


def _name_and_place(item: pytest.Item) -> tuple[str, str]:
    """`fio[shape]` and `mount` of `test_fio[shape-mount]`, in whichever order pytest has the parameters."""
    name, _, parameters = item.name.removeprefix("test_").rstrip("]").partition("[")
    found = parameters.split("-")
    place = next((word for word in found if word in PLACES), "")
    rest = "-".join(word for word in found if word != place)
    return (f"{name}[{rest}]" if rest else name), place


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Notes the outcome, and lets an expected deviation pass; one that does not show fails."""
    report = yield
    name, place = _name_and_place(item)
    if not place:
        return report
    outcomes = item.config.stash.setdefault(_OUTCOMES, {}).setdefault(name, {})
    expected = next((one for one in _EXPECTED if one["test"] == name and place != EXT4), None)
    if report.when == "call" and expected is not None:
        if report.failed and expected["says"] in str(report.longrepr):
            report.outcome, report.longrepr = "passed", None
            outcomes[place] = "deviates"
        elif report.passed:
            report.outcome, report.longrepr = "failed", f"it does not deviate: take it out of expected.toml: {expected}"
    if report.failed:
        outcomes[place] = "FAILED"
    elif report.skipped:
        outcomes[place] = "skipped"
    elif report.when == "call":
        outcomes.setdefault(place, "ok")
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table, and results/foreign.details.json."""
    outcomes = terminalreporter.config.stash.get(_OUTCOMES, {})
    if not outcomes:
        return
    terminalreporter.section("programs of others (results/foreign.json)")
    terminalreporter.write_line(f"{'program':34}" + "".join(f"{place:>10}" for place in PLACES))
    for name, by_place in outcomes.items():
        terminalreporter.write_line(f"{name:34}" + "".join(f"{by_place.get(place, ''):>10}" for place in PLACES))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "foreign.details.json").write_text(json.dumps(outcomes, indent=2) + "\n")
