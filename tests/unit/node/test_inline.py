"""Inline volumes: the list of what is allowed, and that nothing else ever is."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csi.base.errors import Code, DriverError
from csi.config.allowed_sources import parse
from csi.config.sources import Source
from csi.config.volumes import NodeVolume
from csi.node.inline import AllowedSources

TEAM = "nfs://nas/data/team"
RULES = [
    {"namespaces": ["team-*", "build"], "sources": [TEAM, "nfs://nas:2049/ports"]},
    {"namespaces": ["*"], "sources": ["nfs://nas/public", "nfs://nas/data/team/open"]},
]
UID = "0b6e6bd7-2c0c-4c5e-9d0a-1f2e3d4c5b6a"
TARGET = f"/var/lib/kubelet/pods/{UID}/volumes/kubernetes.io~csi/data/mount"
INLINE = {"csi.storage.k8s.io/ephemeral": "true", "csi.storage.k8s.io/pod.uid": UID}


def inline_volume(source: str, path: str = "", *, namespace: str = "team-a", **options: str) -> NodeVolume:
    context = {"source": source, "path": path, **options, **INLINE, "csi.storage.k8s.io/pod.namespace": namespace}
    return NodeVolume.from_context("csi-" + "0" * 64, context, mount_flags=[], target=TARGET)


@pytest.fixture
def listed(tmp_path: Path) -> AllowedSources:
    file = tmp_path / "allowed-sources.json"
    file.write_text(json.dumps(RULES))
    return AllowedSources(file)


@pytest.mark.parametrize(
    ("source", "path", "namespace", "mounted"),
    [
        (TEAM, "", "team-a", (TEAM, "")),
        (TEAM, "a/b", "team-", (TEAM, "a/b")),
        (f"{TEAM}/a", "b", "build", (TEAM, "a/b")),
        (f"{TEAM}/", "", "build", (TEAM, "")),
        ("nfs://NAS/data", "team/a", "team-a", (TEAM, "a")),
        ("nfs://nas:2049/ports", "", "team-a", ("nfs://nas:2049/ports", "")),
        ("nfs://nas/public", "x", "anybody", ("nfs://nas/public", "x")),
        (f"{TEAM}/open/x", "", "team-a", (f"{TEAM}/open", "x")),  # the nearest
    ],
)
def test_allowed(listed: AllowedSources, source: str, path: str, namespace: str, mounted: tuple[str, str]) -> None:
    admitted = listed.admit(inline_volume(source, path, namespace=namespace))
    assert (admitted.source.canonical(), admitted.path) == mounted


def test_a_pod_names_no_workers_and_no_file_of_the_node(listed: AllowedSources) -> None:
    volume = inline_volume(TEAM, **{"workers": "10.0.0.1:22", "workers-key": "/dev/watchdog"})
    with pytest.raises(DriverError, match="workers-key") as refusal:
        listed.admit(volume)
    assert refusal.value.code is Code.PERMISSION_DENIED
    with pytest.raises(DriverError, match="workers-key"):
        listed.admit(inline_volume(TEAM, **{"workers-key": "/etc/shadow"}))
    small = {"ro": "", "consistency": "bounded", "small-files": "0:0"}
    with pytest.raises(DriverError, match="in whose name") as refusal:
        listed.admit(inline_volume(TEAM, **small))
    assert refusal.value.code is Code.PERMISSION_DENIED


@pytest.mark.parametrize(
    ("source", "path", "namespace"),
    [
        (TEAM, "", "other"),
        (TEAM, "", "team"),
        (TEAM, "", "builder"),
        (TEAM, "", "xteam-a"),
        ("nfs://nas/data/teamwork", "", "team-a"),
        ("nfs://nas/data", "", "team-a"),
        ("nfs://nas/data", "teamwork", "team-a"),
        ("nfs://nas.example.com/data/team", "", "team-a"),
        ("nfs://nas:2049/data/team", "", "team-a"),
        ("nfs://nas/data/team?mountport=2", "", "team-a"),
        ("nfs://nas/ports", "", "team-a"),
    ],
)
def test_refused(listed: AllowedSources, source: str, path: str, namespace: str) -> None:
    with pytest.raises(DriverError) as caught:
        listed.admit(inline_volume(source, path, namespace=namespace))
    assert caught.value.code is Code.PERMISSION_DENIED
    wanted = Source.parse(source).beneath(path).canonical()
    for part in (repr(namespace), wanted, "inline.allowedSources", "nfs://nas/public"):
        assert part in caught.value.message


def test_a_port_given_as_option_counts(listed: AllowedSources) -> None:
    with pytest.raises(DriverError) as caught:
        listed.admit(inline_volume(TEAM, port="2050"))
    assert caught.value.code is Code.PERMISSION_DENIED
    admitted = listed.admit(inline_volume("nfs://nas/ports", port="2049")).source
    assert isinstance(admitted, Source)
    assert admitted.port == 2049


def test_off_by_default() -> None:
    with pytest.raises(DriverError, match="--allowed-sources") as caught:
        AllowedSources(None).admit(inline_volume(TEAM))
    assert caught.value.code is Code.PERMISSION_DENIED


def test_a_change_is_in_force_at_once(tmp_path: Path) -> None:
    file = tmp_path / "list"
    listed = AllowedSources(file)
    for content, code in (
        (None, Code.FAILED_PRECONDITION),
        ("[]", Code.PERMISSION_DENIED),
        (json.dumps(RULES), None),
        ("[{", Code.FAILED_PRECONDITION),
        (" " * ((1 << 20) + 1), Code.FAILED_PRECONDITION),
    ):
        if content is not None:
            file.write_text(content)
        try:
            listed.admit(inline_volume(TEAM))
        except DriverError as error:
            assert error.code is code, error.message
            assert code is not Code.FAILED_PRECONDITION or str(file) in error.message
        else:
            assert code is None


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({}, ["array"]),
        ([[]], ["rule 1", "not an object"]),
        ([{"namespaces": ["a"]}], ["rule 1", "'sources'"]),
        ([{"namespaces": [], "sources": [TEAM]}], ["'namespaces'"]),
        ([RULES[0], {"namespaces": "a", "sources": [TEAM]}], ["rule 2", "'namespaces'"]),
        ([{"namespaces": [1], "sources": [TEAM]}], ["string"]),
        ([{"namespace": ["a"], "sources": [TEAM]}], ["'namespace'", "did you mean 'namespaces'?"]),
        ([{"namespaces": ["a*b"], "sources": [TEAM]}], ["'a*b'"]),
        ([{"namespaces": ["Team"], "sources": [TEAM]}], ["'Team'"]),
        ([{"namespaces": ["a"], "sources": ["nas:/data"]}], ["nas:/data"]),
        ([{"namespaces": ["a"], "sources": ["nfs://nas/data/../x"]}], [".."]),
    ],
)
def test_bad_lists_are_named(entries: object, words: list[str]) -> None:
    with pytest.raises(DriverError) as caught:
        parse(json.dumps(entries).encode())
    assert caught.value.code is Code.INVALID_ARGUMENT
    for word in words:
        assert word in caught.value.message


@given(
    st.binary(max_size=60)
    | st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["namespaces", "sources", "x"]), inner),
    ).map(lambda v: json.dumps(v).encode())
)
def test_any_list_is_read_or_refused(text: bytes) -> None:
    try:
        parse(text)
    except DriverError as error:
        assert error.code is Code.INVALID_ARGUMENT


_NAME = st.sampled_from(["a", "ab", "a b", "team", "..", ".", "", "x\\..\\y", "a/..", "é"])


@given(st.lists(_NAME, max_size=4), st.lists(_NAME, max_size=4), st.sampled_from(["team-a", "team", "a", "other"]))
def test_what_is_admitted_lies_beneath_a_source_of_a_rule(source: list[str], path: list[str], namespace: str) -> None:
    """Against the plainest reading of the rules: whole components, compared one by one."""
    rules = [({"team-a"}, ["a"]), ({"team-a", "a"}, ["team", "ab"])]
    entries = [{"namespaces": sorted(names), "sources": ["nfs://nas/" + "/".join(where)]} for names, where in rules]

    class Listed(AllowedSources):
        def rules(self) -> list:  # type: ignore[type-arg]
            return parse(json.dumps(entries).encode())

    try:
        volume = inline_volume("nfs://nas/" + "/".join(source), "/".join(path), namespace=namespace)
    except DriverError as error:
        assert error.code is Code.INVALID_ARGUMENT
        return
    components = [name for name in "/".join([*source, *path]).split("/") if name]
    expected = any(namespace in names and components[: len(where)] == where for names, where in rules)
    try:
        admitted = Listed(None).admit(volume)
    except DriverError as error:
        assert error.code is Code.PERMISSION_DENIED
        assert not expected
    else:
        assert expected
        assert ".." not in admitted.path.split("/")
        assert isinstance(admitted.source, Source)
        assert isinstance(volume.source, Source)
        assert admitted.source.beneath(admitted.path) == volume.source.beneath(volume.path)


NAMESPACE = {"csi.storage.k8s.io/pod.namespace": "team-a"}


@pytest.mark.parametrize(
    "context",
    [
        {},
        INLINE,
        NAMESPACE,
        {"csi.storage.k8s.io/ephemeral": "false"},
        NAMESPACE | {"csi.storage.k8s.io/ephemeral": "false"},
        NAMESPACE | {"csi.storage.k8s.io/ephemeral": "true"},
        NAMESPACE | INLINE | {"csi.storage.k8s.io/pod.uid": "guessed"},
        NAMESPACE | INLINE | {"csi.storage.k8s.io/pod.uid": ""},
        NAMESPACE | INLINE | {"csi.storage.k8s.io/pod.uid": "/"},
    ],
)
def test_without_kubelets_word_a_pods_own_counts_for_nothing(context: dict[str, str]) -> None:
    """Without podInfoOnMount all attributes are the pod's own, those under kubelet's keys too."""
    with pytest.raises(DriverError, match="podInfoOnMount") as caught:
        NodeVolume.from_context("csi-" + "a" * 64, {"source": TEAM, **context}, mount_flags=[], target=TARGET)
    assert caught.value.code is Code.FAILED_PRECONDITION


def test_persistent_and_inline() -> None:
    said = {"csi.storage.k8s.io/ephemeral": "false", "csi.storage.k8s.io/pod.namespace": "a"}
    for context in ({}, said):
        volume = NodeVolume.from_context("pv-1", {"source": TEAM, **context}, mount_flags=[], target=TARGET)
        assert volume.inline_in is None
    assert inline_volume(TEAM).inline_in == "team-a"
