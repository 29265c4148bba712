"""Keys of daemons: equal for equal behaviour, and the same in every release."""

import dataclasses

import pytest

from csi.config.mount_options import MountOptions, parse, parse_list
from csi.config.sources import Source
from csi.node import daemon_keys
from csi.node.daemon_keys import daemon_key

SOURCE = Source.parse("nfs://nas/data")
ALL_OPTIONS = (
    "idmap,network=pod,fuse-features=6.1,log-level=debug,unprivileged-port,threads=3,hang-limit=1s,uncommitted=8MiB,"
    "read-ahead=1MiB,entry-ttl=0s"
)


def key(text: str, url: str = "nfs://nas/data") -> str:
    options = parse(parse_list(text), origin="-o")
    return daemon_key(options.source_with_ports(Source.parse(url)), options)


def test_a_key_is_equal_exactly_for_equal_behaviour() -> None:
    assert (
        key("")
        == key("connections=4")
        == key("ro")
        == key("rw,hard,attr-ttl=3000ms,attr-ttl-max=60s,consistency=close-to-open")
    )
    assert len(key("")) == 16
    different = ["", "connections=5", "soft", "soft,timeout=5s", "attr-ttl=0s", "entry-ttl=0s", "read-ahead=1MiB",
                 "uncommitted=8MiB", "threads=3", "unprivileged-port", "port=1", "mountport=1", "log-level=debug",
                 "network=pod", "idmap", "hang-limit=1s", "fuse-features=6.1", "attr-ttl=1s", "attr-ttl-max=2m",
                 "consistency=bounded", "consistency=sealed", "consistency=bounded,attr-ttl=5s"]  # fmt: skip
    assert len({key(text) for text in different}) == len(different)
    assert key("", "nfs://nas/data2") != key("") != key("", "nfs://nas2/data")
    assert key("port=2050") == key("", "nfs://nas:2050/data")


@pytest.mark.parametrize(
    ("url", "text", "first"),
    [
        ("nfs://nas/data", "", "c00dceaaf1998b7e"),
        ("nfs://nas/data", "ro", "c00dceaaf1998b7e"),
        ("nfs://nas/data", "connections=5", "9724c0e9d0fc02d4"),
        ("nfs://nas/data", "soft", "c7a70610e8ee8d00"),
        ("nfs://nas/data", "soft,timeout=5s", "66fc627e8e310bfc"),
        ("nfs://nas/data", "attr-ttl=0s", "13f07188e7988273"),
        ("nfs://nas/data", "port=2050,mountport=3", "0789fa6018901af6"),
        ("nfs://[fd00::1]:2049/x?mountport=9", ALL_OPTIONS, "1fc716b5e9e41219"),
    ],
)
def test_keys_are_those_of_the_first_release(url: str, text: str, first: str) -> None:
    """As 0.1.0 printed them: its daemons are found after an upgrade, and ours by it after a downgrade."""
    assert key(text, url) == first


@dataclasses.dataclass(frozen=True, kw_only=True)
class LaterOptions(MountOptions):
    """Of a release with one more option that is not 0, and with another default."""

    cache_mib: int = 100
    connections: int = 8


def test_one_more_option_and_another_default_split_nothing() -> None:
    assert daemon_key(SOURCE, LaterOptions()) == daemon_key(SOURCE, MountOptions())
    assert daemon_key(SOURCE, LaterOptions(soft=True)) == daemon_key(SOURCE, MountOptions(soft=True))
    keys = [
        daemon_key(SOURCE, options)
        for options in (
            LaterOptions(), LaterOptions(cache_mib=5), LaterOptions(connections=4), LaterOptions(connections=5),
            LaterOptions(connections=5, cache_mib=5),
        )
    ]  # fmt: skip
    assert len(set(keys)) == len(keys)


def test_what_the_first_release_had_is_known() -> None:
    names = {field.name for field in dataclasses.fields(MountOptions)}
    assert set(daemon_keys._FIRST_DEFAULTS) | set(daemon_keys._ELSEWHERE) <= names
