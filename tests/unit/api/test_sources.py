"""What a Dataset's mounts ask for, in the driver's own words."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csi.api.checks import problems
from csi.api.dataset import Dataset
from csi.api.efcruntime import EFCRuntime
from csi.api.rules import CLAIM, DIRECTORY, HOST, SCHEME, UPWARDS
from csi.api.sources import (
    SECRETS_MAX,
    ClaimSource,
    access_modes,
    is_writable,
    options_of,
    overlaid,
    secret_options_of,
    secrets_of,
    source_of,
)
from csi.base.errors import Code, DriverError
from csi.config.mount_options import parse
from csi.config.sources import Source
from tests.support.dataset_objects import dataset, runtime


@pytest.mark.parametrize(
    ("mount_point", "canonical"),
    [
        ("nfs://nas:/data", "nfs://nas/data"),
        ("nfs://nas/data", "nfs://nas/data"),
        ("nfs://nas:2049:/data", "nfs://nas:2049/data"),
        ("nfs://nas:2049/data/", "nfs://nas:2049/data"),
        ("nfs://[fd00::1]:/data", "nfs://[fd00::1]/data"),
        ("nfs://[fd00::1]:2049:/data", "nfs://[fd00::1]:2049/data"),
        ("nfs://NAS:/", "nfs://nas/"),
        ("nfs://nas:/a:/b", "nfs://nas/a:/b"),
        ("nfs://nas:2049:/data?mountport=20048", "nfs://nas:2049/data?mountport=20048"),
        ("cpfs://cpfs-1.example.com:/share/a", "nfs://cpfs-1.example.com/share/a"),
        ("cpfs://cpfs-1.example.com:20049:/share", "nfs://cpfs-1.example.com:20049/share"),
    ],
)
def test_sources(mount_point: str, canonical: str) -> None:
    assert source_of(mount_point) == Source.parse(canonical)


@pytest.mark.parametrize(
    ("mount_point", "claim", "path"),
    [("pvc://data", "data", ""), ("pvc://data/", "data", ""), ("pvc://data.v2/a/b/", "data.v2", "a/b")],
)
def test_claims(mount_point: str, claim: str, path: str) -> None:
    assert source_of(mount_point) == ClaimSource(claim=claim, path=path)


@pytest.mark.parametrize(
    "mount_point",
    [
        "", "nas:/data", "s3://bucket/a", "pvc://", "pvc:///a", "pvc://Data", "pvc://data//a", "pvc://data/../a", "nfs://nas",
        "nfs://nas::/a", "nfs://nas:2049::/a", "nfs://nas:99999:/a", "nfs://:/a", "nfs://nas:/a/../b", "nfs://[::1]]:/a",
    ],
)  # fmt: skip
def test_no_sources(mount_point: str) -> None:
    with pytest.raises(DriverError) as caught:
        source_of(mount_point)
    assert caught.value.code is Code.INVALID_ARGUMENT


_PARTS = st.sampled_from(
    ["nfs", "cpfs", "pvc", "://", ":", "/", "..", ".", "nas", "2049", "[::1]", "a", "-", "?", "@", "\\", " "]
)


@given(st.one_of(st.text(max_size=40), st.lists(_PARTS, max_size=12).map("".join)))
def test_what_the_parser_takes_the_rules_let_through(mount_point: str) -> None:
    """The API server refuses nothing that could be served."""
    try:
        source_of(mount_point)
    except DriverError as error:
        assert error.code is Code.INVALID_ARGUMENT
        return
    assert all(rule.holds(mount_point) for rule in (SCHEME, HOST, DIRECTORY, CLAIM, UPWARDS))


_HOSTS = st.from_regex(r"[a-z]([a-z0-9-]{0,8}[a-z0-9])?(\.[a-z0-9]{1,5}){0,2}", fullmatch=True)
_DIRECTORIES = st.lists(
    st.text("abc.: -", min_size=1, max_size=5).filter(lambda part: part not in (".", "..")), max_size=4
)


@given(host=_HOSTS, port=st.integers(0, 65535), parts=_DIRECTORIES, scheme=st.sampled_from(["nfs", "cpfs"]))
def test_both_forms_are_one_source(host: str, port: int, parts: list[str], scheme: str) -> None:
    authority = f"{host}:{port}" if port else host
    path = "/" + "/".join(parts)
    expected = Source(host=host, port=port, path=path)
    assert source_of(f"{scheme}://{authority}:{path}") == source_of(f"{scheme}://{authority}{path}") == expected


# ---------------------------------------------------------------- options


def _read(mount: dict[str, Any] | None = None, **spec: Any) -> Dataset:
    return Dataset.model_validate(dataset({"mountPoint": "nfs://nas/a"} | (mount or {}), **spec))


def _options(
    *, served: dict[str, Any] | None = None, has_pod_network: bool = True, mount: dict[str, Any] | None = None,
    **spec: Any,
) -> dict[str, str]:  # fmt: skip
    data = _read(mount, **spec)
    of = EFCRuntime.model_validate(runtime(**(served or {})))
    return options_of(data, data.spec.mounts[0], runtime=of, has_pod_network=has_pod_network)


def _secret_options(
    secrets: dict[str, dict[str, str]], *, mount: dict[str, Any], **spec: Any
) -> dict[str, str]:  # fmt: skip
    data = _read(mount, **spec)
    return secret_options_of(data, data.spec.mounts[0], secrets)


_WRITABLE: dict[str, Any] = {"accessModes": ["ReadWriteMany"]}
_READ_ONLY = {"ro": "true", "consistency": "bounded", "attr-ttl": "3s"}


def test_read_only_unless_said() -> None:
    assert _options() == _READ_ONLY
    assert _options(accessModes=["ReadOnlyMany"]) == _READ_ONLY
    assert _options(**_WRITABLE) == {"consistency": "cto"}
    assert _options(mount={"readOnly": True}, **_WRITABLE) == _READ_ONLY
    assert _options(mount={"options": {"ro": ""}}, **_WRITABLE) == _READ_ONLY


def test_what_is_written_wins_over_the_defaults() -> None:
    assert _options(sharedOptions={"consistency": "sealed"})["consistency"] == "sealed"
    assert _options(sharedOptions={"attr-ttl": "10s"}) == _READ_ONLY | {"attr-ttl": "10s"}
    assert _options(sharedOptions={"noac": ""})["attr-ttl"] == "0s"


def test_layers() -> None:
    layers: dict[str, Any] = {
        "served": {"fuse": {"properties": {"read-ahead": "1MiB", "threads": "1", "connections": "1", "timeo": "600"}}},
        "sharedOptions": {"read-ahead": "2MiB", "threads": "3"},
        "mount": {"options": {"read-ahead": "4MiB"}},
    }
    options = _options(**layers)
    assert (options["read-ahead"], options["threads"], options["connections"]) == ("4MiB", "3", "1")


def test_an_option_wins_over_another_word_for_it() -> None:
    options = _options(
        sharedOptions={"nconnect": "2", "attr-ttl": "9s"}, mount={"options": {"connections": "8", "acregmin": "1"}}
    )
    assert (options["connections"], options["attr-ttl"]) == ("8", "1s")
    assert _options(sharedOptions={"ro": ""}, mount={"options": {"rw": ""}}, **_WRITABLE)["rw"] == "true"


def test_soft_and_its_timeout_in_several_layers() -> None:
    options = _options(sharedOptions={"soft": "", "timeout": "5s"}, mount={"options": {"timeo": "100", "retrans": "0"}})
    assert (options["soft"], options["timeout"]) == ("true", "10000ms")
    assert "timeout" not in _options(sharedOptions={"soft": "", "timeout": "5s"}, mount={"options": {"hard": ""}})
    with pytest.raises(DriverError, match="needs 'soft'"):
        _options(mount={"options": {"timeout": "5s"}})


def _secret(option: str, key: str) -> dict[str, Any]:
    return {"name": option, "valueFrom": {"secretKeyRef": {"name": "nas", "key": key}}}


def test_secrets_win() -> None:
    mount = {"options": {"port": "1", "nconnect": "9"}, "encryptOptions": [_secret("port", "p")]}
    shared = [_secret("port", "q"), _secret("connections", "q")]
    hidden = _secret_options({"nas": {"p": "2", "q": "3"}}, mount=mount, sharedEncryptOptions=shared)
    assert hidden == {"port": "2", "connections": "3"}
    data = _read(mount, sharedEncryptOptions=shared)
    seen = options_of(data, data.spec.mounts[0])
    assert (seen["port"], seen["connections"]) == ("1", "9")
    both = overlaid(seen, hidden, origin="Secrets")
    assert (both["port"], both["connections"], both["consistency"]) == ("2", "3", "bounded")
    assert options_of(data, data.spec.mounts[0], secrets={"nas": {"p": "2", "q": "3"}}) == both


@pytest.mark.parametrize(("secrets", "words"), [({}, "no Secret 'nas'"), ({"nas": {"q": "3"}}, "has no key 'p'")])
def test_missing_secrets(secrets: dict[str, dict[str, str]], words: str) -> None:
    with pytest.raises(DriverError, match=words) as caught:
        _secret_options(secrets, mount={"encryptOptions": [_secret("port", "p")]})
    assert caught.value.code is Code.FAILED_PRECONDITION


@pytest.mark.parametrize("option", ["port", "timeout", "vers", "soft", "hunter", "ro"])
def test_a_wrong_value_of_a_secret_is_not_repeated(option: str) -> None:
    with pytest.raises(DriverError) as caught:
        _secret_options({"nas": {"p": "hunter2"}}, mount={"encryptOptions": [_secret(option, "p")]})
    assert "hunter2" not in caught.value.message
    assert f"'{option}'" in caught.value.message


def test_a_reference_without_a_secret() -> None:
    with pytest.raises(DriverError, match="name a Secret and its key"):
        _secret_options({}, mount={"encryptOptions": [{"name": "port"}]})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"attr-tll": "1s"}, "did you mean 'attr-ttl'"), ({"workers": "/x"}, "set by the driver"),
        ({"vers": "4"}, "is not supported"), ({"threads": "900"}, "allowed is"), ({"rw": ""}, "accessModes"),
    ],
)  # fmt: skip
def test_refused_options(options: dict[str, str], words: str) -> None:
    with pytest.raises(DriverError, match=words):
        _options(mount={"options": options})


def test_networks() -> None:
    pods: dict[str, Any] = {"fuse": {"networkMode": "ContainerNetwork"}}
    assert _options(served=pods)["network"] == "pod"
    assert "network" not in _options(served=pods, has_pod_network=False)
    assert "network" not in _options(served={"fuse": {"networkMode": "HostNetwork"}})
    assert _options(served=pods, mount={"options": {"network": "host"}})["network"] == "host"


def test_options_of_a_closed_client_are_left_out() -> None:
    assert _options(served={"fuse": {"properties": {"g_tier_EnableClusterCache": "true"}}}) == _READ_ONLY


_LAYER = st.dictionaries(
    st.sampled_from(["threads", "connections", "port"]), st.integers(1, 16).map(str), max_size=3
)  # fmt: skip


@given(_LAYER, _LAYER, _LAYER)
def test_layers_are_like_dictionaries(low: dict[str, str], middle: dict[str, str], high: dict[str, str]) -> None:
    options = _options(served={"fuse": {"properties": low}}, sharedOptions=middle, mount={"options": high})
    assert options == low | middle | high | _READ_ONLY
    parse(options.items(), origin="a test")


def test_secrets_by_name() -> None:
    data = dataset({"mountPoint": "nfs://nas/a", "encryptOptions": [_secret("port", "p"), {"name": "ro"}]})
    assert secrets_of(Dataset.model_validate(data)) == {"nas"}
    shared = dataset("nfs://nas/a", sharedEncryptOptions=[_secret("port", "p")])
    assert secrets_of(Dataset.model_validate(shared)) == {"nas"}


def test_access_modes() -> None:
    assert access_modes(Dataset.model_validate(dataset("nfs://nas/a"))) == ("ReadOnlyMany",)
    both = Dataset.model_validate(
        dataset("nfs://nas/a", accessModes=["ReadWriteMany", "ReadOnlyMany", "ReadWriteMany"])
    )
    assert access_modes(both) == ("ReadWriteMany", "ReadOnlyMany")
    assert is_writable(both)
    with pytest.raises(DriverError, match="did you mean 'ReadWriteMany'"):
        access_modes(Dataset.model_validate(dataset("nfs://nas/a", accessModes=["ReadWritMany"])))


def _from_secrets(*names: str) -> Dataset:
    options = [{"name": "attr-ttl", "valueFrom": {"secretKeyRef": {"name": name, "key": "k"}}} for name in names]
    return Dataset.model_validate(dataset("nfs://nas/data", sharedEncryptOptions=options))


@pytest.mark.parametrize(
    "name", ["../../other/secrets/token", "..", "", "a/b", "a?watch=1", "a%2Fb", "a\n", "A", "a" * 254]
)
def test_a_secret_of_no_name_is_not_looked_for(name: str) -> None:
    """It would be one of another namespace."""
    assert secrets_of(_from_secrets(name, "nas")) == {"nas"}


def test_secrets_of_one_dataset_are_few() -> None:
    assert len(secrets_of(_from_secrets(*(f"s{number}" for number in range(SECRETS_MAX))))) == SECRETS_MAX
    many = _from_secrets(*(f"s{number}" for number in range(SECRETS_MAX + 1)))
    (problem,) = problems(many)
    assert "33 Secrets" in problem.message
