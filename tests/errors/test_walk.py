"""`efc-fs walk`: what is in a tree on a NAS is counted once, whatever happens to the walk and to the tree."""

from __future__ import annotations

import itertools
import json
import os
import random
import stat
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.delay import delayed
from tests.support.nas import Export, Nas
from tests.support.paths import program
from tests.support.processes import wait_until
from tests.support.scripted_nas import (
    ACCES,
    DIRECTORY,
    NOTSUPP,
    STALE,
    SYMLINK,
    Arguments,
    Call,
    Node,
    ScriptedNas,
    post,
    u32,
)

OWNER = (1234, 1234)


@dataclass(frozen=True)
class Line:
    """One line of a walk."""

    files: int
    bytes: int
    directories: int
    skipped: int
    unchecked: int
    done: bool
    checkpoint: str

    @property
    def totals(self) -> tuple[int, int, int]:
        """Regular files, the sum of their sizes, directories."""
        return self.files, self.bytes, self.directories


def command(url: str, *flags: str) -> list[str]:
    return [str(program("efc-fs")), "walk", "--uid", str(OWNER[0]), "--gid", str(OWNER[1]), *flags, url]


def parsed(printed: str) -> list[Line]:
    return [Line(**json.loads(line)) for line in printed.splitlines()]


def walk(url: str, *flags: str) -> list[Line]:
    """The lines of a walk that succeeds."""
    done = subprocess.run(command(url, *flags), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = parsed(done.stdout)
    assert [line.done for line in lines] == [False] * (len(lines) - 1) + [True]
    return lines


def failure(url: str, *flags: str) -> tuple[dict[str, str], list[Line]]:
    """What a walk fails with, and its lines until then."""
    done = subprocess.run(command(url, *flags), capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stdout
    told: dict[str, str] = json.loads(done.stderr)
    return told, parsed(done.stdout)


def counted(folder: Path) -> tuple[int, int, int]:
    """What `walk` must find, by another way: regular files once each, the sum of their sizes, directories."""
    seen: dict[tuple[int, int], int] = {}
    directories = 0
    for parent, _, names in os.walk(os.fsencode(folder)):
        directories += 1
        for name in names:
            status = os.lstat(os.path.join(parent, name))
            if stat.S_ISREG(status.st_mode):
                seen[status.st_dev, status.st_ino] = status.st_size
    return len(seen), sum(seen.values()), directories


@pytest.fixture(scope="module")
def nas() -> Iterator[Nas]:
    with Nas() as nas:
        yield nas


@pytest.fixture
def folder(nas: Nas) -> Iterator[Path]:
    """The export, empty at first."""
    folder = nas.export_folder()
    folder.chmod(0o755)
    yield folder
    # shutil.rmtree of this Python gives up in deep trees.
    subprocess.run(["rm", "-rf", "--", *folder.iterdir()], check=True, timeout=60)


@pytest.fixture
def scripted() -> Iterator[ScriptedNas]:
    with ScriptedNas() as nas:
        yield nas


def test_a_tree_of_everything(nas: Nas, folder: Path) -> None:
    (folder / "empty").mkdir()
    (folder / "file").write_bytes(b"x" * 1000)
    with (folder / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    for name in ("a", "b", "c"):
        (folder / name).mkdir()
        os.link(folder / "file", folder / name / "same file")
    (folder / "a" / "to nowhere").symlink_to("nothing")
    (folder / "a" / "to the top").symlink_to("..")
    (folder / "a" / "outside").symlink_to("/etc")
    os.mkfifo(folder / "fifo")
    bad = os.fsencode(folder) + b"/\xff\xfe \n"
    os.mkdir(bad)
    with open(bad + b"/\x80", "wb") as file:
        file.write(b"12345")
    last = walk(nas.url)[-1]
    assert last.totals == (3, 1000 + (1 << 40) + 5, 6) == counted(folder)
    assert (last.skipped, last.unchecked) == (0, 0)


def test_ten_thousand_files_take_few_calls(scripted: ScriptedNas) -> None:
    scripted.page_entries = 250
    for name in ("flat", "deep"):
        scripted.add(scripted.root, name, kind=DIRECTORY)
    flat, deep = scripted.root.children.values()
    for number in range(5_000):
        scripted.add(flat, f"file-{number}", data=b"xy")
    for number in range(100):
        directory = scripted.add(deep, f"{number}", kind=DIRECTORY)
        for file in range(50):
            scripted.add(directory, f"{file}", data=b"xyz")
    assert walk(scripted.url)[-1].totals == (10_000, 25_000, 103)
    lists = scripted.counts.pop("READDIRPLUS")
    assert lists <= 5_000 // 250 + 100 + 4
    assert sum(scripted.counts.values()) <= 5, scripted.counts


def test_a_far_nas_is_asked_for_many_directories_at_a_time(nas: Nas, folder: Path) -> None:
    for number in range(300):
        (folder / f"{number}").mkdir()
        for file in range(30):
            (folder / f"{number}" / f"{file}").write_bytes(b"x")
    with delayed(nas.port, round_trip_us=20_000) as port:
        url = nas.url_of("export", port=port)
        lines = walk(url, "--interval-ms", "100")
    assert lines[-1].totals == (9_000, 9_000, 301)
    # 302 round trips one after the other are 6 s, which is 60 lines.
    assert len(lines) < 40


def test_deep_trees(nas: Nas, folder: Path) -> None:
    place = os.open(folder, os.O_RDONLY)
    for _ in range(1_000):
        os.mkdir("deeper", dir_fd=place)
        below = os.open("deeper", os.O_RDONLY, dir_fd=place)
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=place))
        os.close(place)
        place = below
    os.close(place)
    lines = walk(nas.url, "--interval-ms", "0")
    assert lines[-1].totals == (1_000, 0, 1_001)
    assert len({line.checkpoint for line in lines}) == len(lines)
    assert walk(nas.url, "--resume", lines[500].checkpoint)[-1].totals == (1_000, 0, 1_001)


def populate(folder: Path) -> None:
    """Directories in directories, with files of which some have further names in other ones."""
    for top in range(6):
        for middle in range(8):
            leaf = folder / f"{top}" / f"{middle}"
            (leaf / "below").mkdir(parents=True)
            for file in range(12):
                (leaf / f"file-{file}").write_bytes(b"x" * (top + file))
            os.link(leaf / "file-1", folder / f"{top}" / f"link-{middle}")
            os.link(leaf / "file-2", leaf / "below" / "link")
            if top:
                os.link(folder / "0" / f"{middle}" / "file-3", leaf / "below" / "far link")


def test_it_goes_on_from_each_of_its_lines(nas: Nas, folder: Path) -> None:
    populate(folder)
    lines = walk(nas.url, "--interval-ms", "0")
    assert len(lines) > 100
    assert all(len(line.checkpoint) <= 64 << 10 for line in lines)
    assert lines[-1].totals == counted(folder)
    for line in lines[::7] + lines[-3:]:
        resumed = walk(nas.url, "--interval-ms", "0", "--resume", line.checkpoint)
        assert resumed[-1].totals == lines[-1].totals
        assert resumed[0].files >= line.files, "it does not begin anew"
        assert len(resumed) <= len(lines) + 1


def test_more_names_than_a_checkpoint_holds(scripted: ScriptedNas) -> None:
    """Lines keep the last checkpoint that was short enough, and nothing is counted twice from there."""
    scripted.page_entries = 500
    numbers = random.Random(1)
    for _ in range(25_000):
        file = scripted.add(scripted.root, f"{len(scripted.root.children)}", data=b"12", fileid=numbers.getrandbits(60))
        file.nlink = 2  # the other name is elsewhere
    lines = walk(scripted.url, "--interval-ms", "0")
    assert lines[-1].totals == (25_000, 50_000, 1)
    assert all(len(line.checkpoint) <= 64 << 10 for line in lines)
    assert lines[-2].checkpoint == lines[-3].checkpoint != lines[1].checkpoint, "there was room for all"
    scripted.counts.clear()
    assert walk(scripted.url, "--resume", lines[-2].checkpoint)[-1].totals == lines[-1].totals
    assert scripted.counts["READDIRPLUS"] < 50, "it begins anew"


def test_it_is_killed_again_and_again(nas: Nas, folder: Path) -> None:
    populate(folder)
    flags: Sequence[str] = ()
    for _ in range(200):
        with subprocess.Popen(
            command(nas.url, "--interval-ms", "0", *flags), stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout
            printed = list(itertools.islice(child.stdout, 3))
            child.kill()
        line = parsed(printed[-1])[0]
        flags = ("--resume", line.checkpoint)
        if line.done:
            break
    assert line.done
    assert line.totals == counted(folder)


def test_checkpoints_of_anything_else_are_refused(nas: Nas, folder: Path) -> None:
    (folder / "other").mkdir()
    good = walk(nas.url)[-1].checkpoint
    damaged = ("x" if good[30] != "x" else "y").join((good[:30], good[31:]))
    for bad in ("", "garbage", "ü", damaged, good[:-4], good[4:], good + "AAAA"):
        told, lines = failure("nfs://127.0.0.1:1/nowhere?mountport=1", "--resume", bad)
        assert (told["code"], told["errno"], lines) == ("INVALID_ARGUMENT", "EBADMSG", []), bad
        assert "checkpoint" in told["message"]
    for url, flags in ((nas.url_of("export/other"), []), (nas.url, ["--uid", "0"])):
        told, _ = failure(url, "--resume", good, *flags)
        assert (told["code"], told["errno"]) == ("INVALID_ARGUMENT", "EBADMSG")
        assert "another" in told["message"]


def test_what_the_user_may_not_read_is_skipped(nas: Nas, folder: Path) -> None:
    for name in ("mine", "closed", "names only"):
        (folder / name / "below").mkdir(parents=True)
        (folder / name / "file").write_bytes(b"123")
        (folder / name / "below" / "file").write_bytes(b"4567")
    os.chown(folder / "mine", *OWNER)
    (folder / "mine").chmod(0o700)
    (folder / "closed").chmod(0o700)
    (folder / "names only").chmod(0o744)
    last = walk(nas.url)[-1]
    assert last.files >= 2
    assert last.skipped == 2
    as_root = walk(nas.url, "--uid", "0", "--gid", "0")[-1]
    assert (as_root.totals, as_root.skipped) == ((6, 21, 7), 0)
    told, lines = failure(nas.url_of("export/closed"))
    assert told["code"] == "PERMISSION_DENIED"
    assert not any(line.files for line in lines)


def is_list(call: Call, node: Node) -> bool:
    return call.procedure in ("READDIR", "READDIRPLUS") and Arguments(call.arguments).opaque() == node.handle


def test_a_directory_is_removed_under_it(scripted: ScriptedNas) -> None:
    doomed = scripted.add(scripted.root, "doomed", kind=DIRECTORY)
    other = scripted.add(scripted.root, "other", kind=DIRECTORY)
    scripted.add(other, "file", data=b"123")
    scripted.hook = lambda call: call.answer(u32(STALE) + post(None)) if is_list(call, doomed) else call.reply
    last = walk(scripted.url)[-1]
    assert (last.totals, last.skipped) == ((1, 3, 3), 0)
    scripted.hook = lambda call: call.answer(u32(ACCES) + post(None)) if is_list(call, doomed) else call.reply
    last = walk(scripted.url)[-1]
    assert (last.totals, last.skipped) == ((1, 3, 3), 1)


def test_other_file_systems_and_their_equal_inode_numbers(scripted: ScriptedNas) -> None:
    below = scripted.add(scripted.root, "below", kind=DIRECTORY, fsid=2)
    for parent in (scripted.root, below):
        file = scripted.add(parent, "file", data=b"12345", fileid=77)
        parent.children[b"second name"] = file
        file.nlink = 2
    scripted.add(scripted.root, "link", kind=SYMLINK, data=b"below")
    assert walk(scripted.url)[-1].totals == (2, 10, 2)


def test_a_server_whose_listings_say_nothing_but_names(scripted: ScriptedNas) -> None:
    below = scripted.add(scripted.root, "below", kind=DIRECTORY)
    for number in range(200):
        scripted.add(below, f"{number}", data=b"12")
    scripted.hook = lambda call: (
        call.answer(u32(NOTSUPP) + post(None)) if call.procedure == "READDIRPLUS" else call.reply
    )
    assert walk(scripted.url)[-1].totals == (200, 400, 2)


def test_cookies_that_die_while_it_lists(scripted: ScriptedNas) -> None:
    """The server begins each listing anew when a name is added; nothing is counted twice."""
    scripted.checks_cookie_verifiers = True
    scripted.page_entries = 10
    for number in range(100):
        scripted.add(scripted.root, f"{number:03}", data=b"12")
        directory = scripted.add(scripted.root, f"dir-{number:03}", kind=DIRECTORY)
        scripted.add(directory, "file", data=b"1")
    changes, pages = iter(range(5)), itertools.count(1)

    def hook(call: Call) -> bytes | None:
        # Of 20 pages at least.
        if is_list(call, scripted.root) and next(pages) % 4 == 0 and next(changes, None) is not None:
            scripted.root.changed()
        return call.reply

    scripted.hook = hook
    last = walk(scripted.url)[-1]
    assert (last.totals, last.skipped) == ((200, 300, 101), 0)
    assert next(changes, None) is None, "the server changed nothing"


def test_a_directory_below_itself_ends(scripted: ScriptedNas) -> None:
    """A listing that goes in a circle is skipped; the rest is counted."""
    ring = scripted.add(scripted.root, "ring", kind=DIRECTORY)
    for number in range(200):
        scripted.add(ring, f"{number}")
    scripted.add(scripted.root, "file", data=b"123")

    def hook(call: Call) -> bytes | None:
        if is_list(call, ring):
            arguments = Arguments(call.arguments)
            arguments.opaque()
            if arguments.u64() >= 128:
                first = call.arguments[:-24] + bytes(8) + call.arguments[-16:]
                return call.answer(scripted._list(Arguments(first), plus=True))
        return call.reply

    scripted.hook = hook
    last = walk(scripted.url)[-1]
    assert (last.skipped, last.directories) == (1, 2)


def test_a_nas_that_says_nothing_any_more(scripted: ScriptedNas) -> None:
    """The walk ends after the time of one call, and goes on from where it was."""
    for number in range(20):
        directory = scripted.add(scripted.root, f"{number}", kind=DIRECTORY)
        scripted.add(directory, "file", data=b"123")
    silent = list(scripted.root.children.values())[7]
    scripted.hook = lambda call: None if is_list(call, silent) else call.reply
    told, lines = failure(scripted.url, "--timeout-ms", "1000")
    assert told["code"] == "UNAVAILABLE"
    assert (lines[-1].files, lines[-1].done) == (19, False)
    scripted.hook = lambda call: call.reply
    scripted.counts.clear()
    assert walk(scripted.url, "--resume", lines[-1].checkpoint)[-1].totals == (20, 60, 21)
    assert scripted.counts["READDIRPLUS"] == 1


def test_whoever_asked_is_gone(nas: Nas, folder: Path) -> None:
    populate(folder)
    with subprocess.Popen(
        command(nas.url, "--interval-ms", "0"), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as child:
        assert child.stdout
        child.stdout.close()
        wait_until(lambda: child.poll() is not None, what="the walk to end")
    assert child.returncode == 1


def test_a_squashed_root_walks_as_the_owner() -> None:
    with Nas(exports=[Export(squash="Root_Squash")]) as nas:
        folder = nas.export_folder()
        (folder / "private").mkdir(mode=0o700)
        (folder / "private" / "file").write_bytes(b"123")
        os.chown(folder / "private", *OWNER)
        assert walk(nas.url)[-1].totals == (1, 3, 2)
        assert walk(nas.url, "--uid", "0", "--gid", "0")[-1].skipped == 1
