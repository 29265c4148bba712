"""Dataset URLs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csi.base.errors import Code, DriverError
from csi.config.sources import Source


@pytest.mark.parametrize(
    ("url", "canonical"),
    [
        ("nfs://nas/data", "nfs://nas/data"),
        ("nfs://NAS.Example.COM:2049/data/", "nfs://nas.example.com:2049/data"),
        ("nfs://nas:/data", "nfs://nas/data"),
        ("nfs://10.0.0.1/", "nfs://10.0.0.1/"),
        ("nfs://nas:/", "nfs://nas/"),
        ("nfs://[2001:DB8:0::1]:20049/x", "nfs://[2001:db8::1]:20049/x"),
        ("nfs://[::1]:/x", "nfs://[::1]/x"),
        ("nfs://nas/a/b?mountport=20048", "nfs://nas/a/b?mountport=20048"),
        ("nfs://nas/with space/%41", "nfs://nas/with space/%41"),
        ("nfs://file-01_x.cn-hangzhou.nas.aliyuncs.com/a", "nfs://file-01_x.cn-hangzhou.nas.aliyuncs.com/a"),
        ("nfs://nas/...", "nfs://nas/..."),
        ("nfs://nas/数据", "nfs://nas/数据"),
    ],
)
def test_canonical(url: str, canonical: str) -> None:
    source = Source.parse(url)
    assert source.canonical() == canonical
    assert Source.parse(canonical) == source


@pytest.mark.parametrize(
    "url",
    [
        "", "nas:/data", "/data", "NFS://nas/data", "nfs:/nas/data", "nfs://", "nfs:///data", "nfs://nas", "nfs://nas:2049",
        "cpfs://x/y", "nfs://nas:0/x", "nfs://nas:65536/x", "nfs://nas:-1/x", "nfs://nas:2049x/x", "nfs://nas:２/x",
        "nfs://::1/x", "nfs://[::1/x", "nfs://[::1]x/x", "nfs://[nas]/x", "nfs://[fe80::1%eth0]/x", "nfs://na s/x",
        "nfs://nas,ro/x", "nfs://-nas/x", "nfs://" + "a" * 254 + "/x", "nfs://nas/../x", "nfs://nas/a/..", "nfs://nas/a/./b",
        "nfs://nas/a//b", "nfs://nas/a\\..\\b", "nfs://nas/..\\b", "nfs://nas/a\nb", "nfs://nas/a\0b", "nfs://nas/\udcff",
        "nfs://nas/" + "a/" * 600, "nfs://nas/" + "a" * 256, "nfs://nas/x?", "nfs://nas/x?port=1", "nfs://nas/x?mountport=",
        "nfs://nas/x?mountport=1&ro", "nfs://nas/x?mountport=99999", "nfs://nas\n/x",
    ],
)  # fmt: skip
def test_refused(url: str) -> None:
    with pytest.raises(DriverError) as caught:
        Source.parse(url)
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert "\n" not in caught.value.message


def test_the_form_of_mount_8_is_told_ours() -> None:
    with pytest.raises(DriverError, match=r"did you mean 'nfs://10\.0\.0\.1:/data'"):
        Source.parse("10.0.0.1:/data")


def test_passwords_are_refused_and_not_repeated() -> None:
    with pytest.raises(DriverError) as caught:
        Source.parse("nfs://user:hunter2@nas/data")
    assert "hunter2" not in caught.value.message


@given(st.text(max_size=60))
def test_what_parses_has_one_canonical_form_and_no_way_out(text: str) -> None:
    for url in (text, "nfs://nas/" + text, "nfs://" + text + "/x"):
        try:
            source = Source.parse(url)
        except DriverError as error:
            assert error.code is Code.INVALID_ARGUMENT
            continue
        assert Source.parse(source.canonical()) == source
        assert source.path.startswith("/")
        assert ".." not in source.path.replace("\\", "/").split("/")
        assert source.host.isascii()


def test_relative_to() -> None:
    nas = Source.parse("nfs://nas/a")
    assert Source.parse("nfs://nas/a/b/c").relative_to(nas) == "b/c"
    assert nas.relative_to(nas) == ""
    assert nas.relative_to(Source.parse("nfs://nas/")) == "a"
    for other in ("nfs://nas/ab", "nfs://nas/", "nfs://other/a/b", "nfs://nas:1/a/b", "nfs://nas/a/b?mountport=1"):
        assert Source.parse(other).relative_to(nas) is None


@pytest.mark.parametrize("url", ["nfs://user:hun/ter2@nas/x", "nfs://user:hunter2@nas/x", "nfs://user:h-/u@n:t@nas/x"])
def test_a_password_is_not_repeated(url: str) -> None:
    with pytest.raises(DriverError, match="no user or password") as caught:
        Source.parse(url)
    assert "hun" not in caught.value.message
    assert "user:" not in caught.value.message


def test_an_at_sign_in_a_path_is_no_password() -> None:
    for url in ("nfs://nas/volume/@home", "nfs://nas:2049/@home", "nfs://[fd00::1]:2049/@home", "nfs://nas:/@home"):
        assert Source.parse(url).path.endswith("@home")
