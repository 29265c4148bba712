"""Several sources under one root: their form, and what cannot be served together."""

from __future__ import annotations

from pathlib import Path

import pytest

from csi.base.errors import DriverError
from csi.config.mount_options import MountOptions
from csi.config.several import (
    SOURCES_MAX,
    MountedSource,
    Sources,
    checked_path,
    described_place,
    origin_of,
    origin_of_wire,
)
from csi.config.sources import Source
from csi.node.daemon_keys import daemon_key
from csi.node.records import Publication, Publications

TEXT = '[{"path":"/a b","source":"nfs://nas/x=y"},{"path":"/deep/c","source":"nfs://other:2049/z","readOnly":true}]'


def test_the_form_survives_and_daemons_are_told_the_same() -> None:
    sources = origin_of(TEXT)
    assert isinstance(sources, Sources)
    assert sources.canonical() == TEXT
    config = MountOptions().daemon_config(sources)
    assert (config.HasField("source"), origin_of_wire(config)) == (False, sources)
    assert origin_of_wire(MountOptions().daemon_config(Source.parse("nfs://nas/x"))) == Source.parse("nfs://nas/x")
    assert origin_of("nfs://nas/x") == Source.parse("nfs://nas/x")
    given = [
        MountedSource.parse("deep/c=nfs://other:2049/z", read_only=True),
        MountedSource.parse("/a b/=nfs://nas/x=y"),
    ]
    assert Sources.of(given) == sources
    assert str(sources) == "/a b=nfs://nas/x=y, /deep/c=nfs://other:2049/z"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "from 1 to 64"),
        ("[1]", "expected JSON"),
        ("[{", "expected JSON"),
        ('[{"path":"/a","source":"nfs://nas/x","more":1}]', "expected JSON"),
        ('[{"path":"/a","source":"nfs://nas/x","readOnly":"yes"}]', "expected JSON"),
        ('[{"path":"/a","source":"http://nas/x"}]', "not supported"),
        ('[{"path":"/a/../b","source":"nfs://nas/x"}]', "contains '..'"),
        ('[{"path":"/","source":"nfs://nas/x"}]', "is the only one"),
        ('[{"path":"/","source":"nfs://nas/x"},{"path":"/a","source":"nfs://nas/y"}]', "inside another"),
        ('[{"path":"/a","source":"nfs://nas/x"},{"path":"/a","source":"nfs://nas/y"}]', "inside another"),
        ('[{"path":"/a/b","source":"nfs://nas/x"},{"path":"/a","source":"nfs://nas/y"}]', "inside another"),
    ],
)
def test_what_cannot_be_is_refused(text: str, words: str) -> None:
    with pytest.raises(DriverError, match=words):
        Sources.parse(text)


@pytest.mark.parametrize("letter", ["x", "\u4e2d", "\U0001f600", '"'])
def test_as_much_as_there_may_be_fits_a_record(tmp_path: Path, letter: str) -> None:
    """What is longer is refused before anything is made of it: nobody could read the record again."""

    def sources(depth: int) -> Sources:
        source = Source.parse("nfs://nas/" + "/".join([letter * 30] * depth))
        return Sources.of(MountedSource(path=f"/{number}", source=source) for number in range(SOURCES_MAX))

    longest = 0
    with pytest.raises(DriverError, match="longer than"):
        while True:
            sources(longest + 1)
            longest += 1
    publications = Publications(str(tmp_path), boot_id="b")
    publications.load()
    publications.put(Publication(
        volume_id="v" * 1024, target="/" + "\u4e2d" * 1364, source=sources(longest).canonical(), path="\u4e2d" * 341,
        key="k", read_only=True,
    ))  # fmt: skip
    again = Publications(str(tmp_path), boot_id="b")
    assert again.load() == []
    assert len(list(again)) == 1


def test_what_is_nested_too_deeply_is_refused() -> None:
    with pytest.raises(DriverError, match="expected JSON"):
        Sources.parse("[" * 4000)


def test_paths_that_only_look_alike_lie_beside_each_other() -> None:
    assert len(Sources.of([MountedSource.parse("a=nfs://nas/x"), MountedSource.parse("ab=nfs://nas/x")]).mounted) == 2
    assert [checked_path(path) for path in ("", "/", "a/", "//a/b")] == ["/", "/", "/a", "/a/b"]


def test_a_datasets_daemon_has_one_key_whatever_comes_and_goes() -> None:
    more = TEXT.replace("]", ',{"path":"/more","source":"nfs://nas/more"}]')
    both = [Sources.parse(text, identity="dataset-uid") for text in (TEXT, more)]
    assert len({daemon_key(sources, MountOptions()) for sources in both}) == 1
    others = [Sources.parse(TEXT), Sources.parse(more), Sources.parse(TEXT, identity="dataset-other")]
    assert len({daemon_key(sources, MountOptions()) for sources in [both[0], *others]}) == 4


def test_a_place_below_the_root_is_named_by_its_source() -> None:
    sources = Sources.parse(TEXT)
    assert described_place(sources, "deep/c/d") == ("nfs://other:2049/z/d", "other")
    assert described_place(sources, "a b") == ("nfs://nas/x=y", "nas")
    assert described_place(sources, "deep")[1] == "nas, other"
    assert described_place(Source.parse("nfs://nas/x"), "d") == ("nfs://nas/x/d", "nas")
