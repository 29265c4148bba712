"""Reading mountinfo."""

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csi.base.children import Children
from csi.base.errors import Code, DriverError
from csi.base.statvfs import Statvfs
from csi.node.mounts import Mount, Mounts, containing, escape, parse_mountinfo, top, unescape

LINE = (
    "612 29 0:57 /team/v /var/lib/kubelet/pods/1/mount ro,nosuid,nodev,relatime shared:9 master:1 - "
    "fuse.efc nfs://nas/data rw,user_id=0"
)


def test_a_line() -> None:
    assert parse_mountinfo(LINE) == [
        Mount(
            device="0:57",
            root="/team/v",
            target="/var/lib/kubelet/pods/1/mount",
            read_only=True,
            file_system_type="fuse.efc",
            source="nfs://nas/data",
            is_shared=True,
        )
    ]


def test_lines_without_optional_fields_and_odd_ones() -> None:
    text = f"1 0 8:1 / / rw - ext4 /dev/root rw\n\nnonsense\n1 2 3\n{LINE}\n2 1 0:5 / /- rw shared:1 - tmpfs - rw\n"
    assert [mount.target for mount in parse_mountinfo(text)] == ["/", "/var/lib/kubelet/pods/1/mount", "/-"]


def test_read_only_is_an_option_of_the_mount_not_of_its_text() -> None:
    assert not parse_mountinfo(LINE.replace(" ro,", " rw,root,"))[0].read_only
    assert not parse_mountinfo(LINE.replace(" ro,", " rw,").replace(" rw,user", " ro,user"))[0].read_only


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=50))
def test_escapes_come_back(path: str) -> None:
    escaped = "".join(f"\\{ord(character):03o}" if character in " \t\n\\#" else character for character in path)
    assert unescape(escaped) == path


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=50))
def test_a_mount_is_found_by_its_target(path: str) -> None:
    target = f"/var/lib/{path}"
    with tempfile.NamedTemporaryFile("w", newline="", encoding="utf-8") as file:
        file.write(f"{LINE}\n2 1 0:58 / {escape(target)} rw shared:1 - fuse.efc {escape(target)} rw\n{LINE}\n")
        file.flush()
        found = Mounts(children=Children(), mountinfo=file.name).at(target)
    assert found is not None
    assert (found.target, found.device) == (target, "0:58")


@given(st.text(max_size=300))
def test_any_text_is_read_without_an_exception(text: str) -> None:
    parse_mountinfo(text)


def test_this_machine_and_stacked_mounts() -> None:
    assert Mounts(children=Children()).at("/proc") is not None
    assert Mounts(children=Children()).at("/proc/self") is None
    lower, upper = (parse_mountinfo(LINE.replace("0:57", device))[0] for device in ("0:1", "0:2"))
    assert top([lower, upper], lower.target) is upper


def test_a_path_that_is_no_text_hides_nothing(tmp_path: Path) -> None:
    file = tmp_path / "mountinfo"
    file.write_bytes(b"1 0 8:1 / /mnt/\xff rw - ext4 /dev/x rw\n" + LINE.encode() + b"\n")
    assert len(Mounts(children=Children(), mountinfo=str(file)).all()) == 2


def test_statvfs_that_is_none() -> None:
    with pytest.raises(DriverError) as caught:
        Statvfs.from_json(b'{"bytes_total": 1}', origin="x")
    assert caught.value.code is Code.INTERNAL


def test_containing_mount() -> None:
    targets = ["/", "/run", "/run/efc", "/run/efc-other", "/run/efc"]
    mounts = [replace(parse_mountinfo(LINE)[0], target=target, source=str(n)) for n, target in enumerate(targets)]
    for path, number in (("/run/efc", 4), ("/run/efc/mnt", 4), ("/run/efcx", 1), ("/srv", 0), ("/run/efc-other/x", 3)):
        found = containing(mounts, path)
        assert found is not None
        assert found.source == str(number), path
    assert containing(mounts[1:], "/srv") is None
