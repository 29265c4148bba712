"""Mount options of nfs(5): what changes nothing, what becomes an option of ours, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csi.base.errors import Code, DriverError
from csi.config import nfs_words
from csi.config.mount_options import MountOptions, changed, own_words, parse, parse_list
from csi.config.options import OPTIONS
from csi.config.sources import Source

ORIGIN = "-o"
SOURCE = Source.parse("nfs://nas/data")


def of(text: str) -> MountOptions:
    return parse(parse_list(text), origin=ORIGIN)


def test_no_word_hides_an_option() -> None:
    assert not set(nfs_words.WORDS) & set(OPTIONS)


@pytest.mark.parametrize(
    "text",
    ["vers=3", "nfsvers=3", "v3", "proto=tcp", "tcp", "nolock", "local_lock=all", "noatime", "nodiratime", "relatime",
     "rsize=1048576", "wsize=1048576", "timeo=600", "retrans=2", "nconnect=4", "resvport", "ac", "acregmin=3",
     "acdirmin=30", "hard", "sec=sys", "_netdev", "mountvers=3", "mountproto=tcp", "noacl", "intr",
     "nosuid", "nodev", "defaults", "nofail", "lookupcache=all", "fg", "async", "defaults,nosuid,nodev,_netdev,nofail",
     "noauto,x-systemd.automount,x-systemd.idle-timeout=5min",
     "vers=3,proto=tcp,hard,nolock,noatime,rsize=131072,wsize=131072,timeo=600,retrans=2,sec=sys,_netdev"],
)  # fmt: skip
def test_what_is_so_anyway_changes_nothing(text: str) -> None:
    assert of(text) == MountOptions()


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("nconnect=8", "connections=8"),
        ("noresvport", "unprivileged-port"),
        ("noac", "attr-ttl=0s,entry-ttl=0s,write-behind=0s"),
        ("sync", "write-behind=0s"),
        ("actimeo=30", "attr-ttl=30s,attr-ttl-max=30s,entry-ttl=30s"),
        ("actimeo=0", "attr-ttl=0s,attr-ttl-max=0s,entry-ttl=0s"),
        ("acregmax=120,acregmin=5", "attr-ttl=5s,attr-ttl-max=120s"),
        ("acregmax=120", "attr-ttl-max=120s"),
        ("acregmax=1", "attr-ttl=1s,attr-ttl-max=1s"),
        ("acregmax=1,acregmin=0", "attr-ttl=0s,attr-ttl-max=1s"),
        ("acdirmin=30", ""),
        ("acdirmax=86400", "entry-ttl=3600s"),
        ("soft", "soft"),
        ("soft,timeo=100,retrans=3", "soft,timeout=40s"),
        ("retrans=0,timeo=100,soft", "soft,timeout=10s"),
        ("soft,timeo=50", "soft,timeout=15s"),
        ("soft,timeo=1,retrans=0", "soft,timeout=1s"),
        ("soft,timeo=600,retrans=1000", "soft,timeout=3600s"),
        ("timeo=100,soft=false", ""),
        ("timeo=100,hard", ""),
        ("nconnect=8,connections=8", "connections=8"),
    ],
)
def test_what_has_an_equal_becomes_it(text: str, same: str) -> None:
    assert of(text) == of(same)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("vers=4", ["'vers=4'", "this driver speaks NFSv3", "vers=3"]),
        ("vers=4.2", ["this driver speaks NFSv3"]),
        ("nfsvers=4.1", ["'nfsvers=4.1'", "this driver speaks NFSv3"]),
        ("nfsvers", ["this driver speaks NFSv3"]),
        ("v4.1", ["this driver speaks NFSv3"]),
        ("minorversion=1", ["this driver speaks NFSv3"]),
        ("sec=krb5p", ["'sec=krb5p'", "AUTH_SYS"]),
        ("proto=rdma", ["TCP only"]),
        ("udp", ["TCP only"]),
        ("lock", ["processes of one node", "nolock"]),
        ("local_lock=none", ["processes of one node"]),
        ("noexec", ["'noexec'", "never noexec"]),
        ("user", ["'user'", "only root"]),
        ("ro,remount", ["'remount'", "efc upgrade"]),
        ("lookupcache=none", ["'lookupcache=none'", "entry-ttl=0s"]),
        ("ro,", ["empty option", "comma"]),
        ("rsize=big", ["'rsize=big'", "a whole number"]),
        ("rsize=４", ["a whole number"]),
        ("timeo", ["'timeo'", "a whole number"]),
        ("noatime=yes", ["'noatime=yes'", "no value"]),
        ("nconnect=17", ["'nconnect'", "'17'", "1 to 16"]),
        ("nconnect=4,connections=8", ["'connections'", "contradicts", "'nconnect'"]),
        ("noac,actimeo=3", ["'actimeo'", "contradicts", "'noac'"]),
        ("hard,soft", ["contradicts"]),
        ("noresvport,resvport", ["contradicts"]),
        ("nolok", ["did you mean 'nolock'"]),
    ],
)
def test_refusals_say_why(text: str, words: list[str]) -> None:
    with pytest.raises(DriverError) as caught:
        of(text)
    assert caught.value.code is Code.INVALID_ARGUMENT
    for word in words:
        assert word in caught.value.message


@given(name=st.sampled_from(sorted(nfs_words.WORDS)), value=st.none() | st.text(max_size=400))
def test_any_value_is_taken_or_refused_in_short(name: str, value: str | None) -> None:
    try:
        parse([(name, value)], origin=ORIGIN)
    except DriverError as error:
        assert error.code is Code.INVALID_ARGUMENT
        assert len(error.message) < 700


def test_a_mounted_dataset_knows_them() -> None:
    soft = of("soft").daemon_config(SOURCE)
    assert changed(soft, parse_list("timeo=100,retrans=0"), origin=ORIGIN).timeout_ms == 10_000
    hard = of("").daemon_config(SOURCE)
    assert changed(hard, parse_list("timeo=100,nconnect=2,vers=3"), origin=ORIGIN) == of("nconnect=2").daemon_config(
        SOURCE
    )


def test_records_hold_words_of_ours_only() -> None:
    """A node of an older release reads what a controller of this one writes."""
    given_words = {"vers": "3", "soft": "", "timeo": "100", "nconnect": "8", "noresvport": "", "attr-ttl": "2s"}
    kept = own_words(given_words, origin=ORIGIN)
    assert kept == {"soft": "", "timeout": "30000ms", "connections": "8", "unprivileged-port": "true", "attr-ttl": "2s"}
    assert parse([(name, value or None) for name, value in kept.items()], origin=ORIGIN) == of(
        "soft,timeout=30s,connections=8,unprivileged-port,attr-ttl=2s"
    )
