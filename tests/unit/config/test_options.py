"""Mount options: the table, parsing, and that nothing in a value ever becomes another option."""

import dataclasses

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from hypothesis import given
from hypothesis import strategies as st

from csi._proto import efc_pb2
from csi.base.errors import Code, DriverError
from csi.config.mount_options import MountOptions, changed, consistency_of, parse, parse_item, parse_list, settings_of
from csi.config.options import OPTIONS, Change, Kind, markdown
from csi.config.sources import Source

SOURCE = Source.parse("nfs://nas/data")
ORIGIN = "-o"


def of(text: str) -> MountOptions:
    return parse(parse_list(text), origin=ORIGIN)


def refused(text: str) -> str:
    with pytest.raises(DriverError) as caught:
        of(text)
    assert caught.value.code is Code.INVALID_ARGUMENT
    return caught.value.message


def test_table_and_fields_agree() -> None:
    kinds = {field.name: field.type for field in dataclasses.fields(MountOptions)}
    assert {option.field for option in OPTIONS.values()} == set(kinds)
    for option in OPTIONS.values():
        of_text = dict.fromkeys((Kind.CHOICE, Kind.ENDPOINTS, Kind.PATH, Kind.IDS), str)
        expected = ({Kind.FLAG: bool} | of_text).get(option.kind, int)
        assert kinds[option.field] is expected, option.name


def test_documented_defaults_are_the_real_ones() -> None:
    for option in OPTIONS.values():
        if option.kind is Kind.FLAG:
            assert (option.default == "on") is (getattr(MountOptions(), option.field) is option.sets), option.name
        elif option.default[0].isdigit() or option.kind is Kind.CHOICE:
            text = f"{option.name}={option.default}" + (",soft" if option.name == "timeout" else "")
            assert getattr(of(text), option.field) == getattr(MountOptions(), option.field), option.name


def test_all_forms() -> None:
    options = of("ro,soft,timeout=2m,connections=16,attr-ttl=500ms,read-ahead=256MiB")
    assert options == MountOptions(
        read_only=True, soft=True, timeout_ms=120_000, connections=16, attr_ttl_ms=500, read_ahead_kib=256 * 1024
    )
    assert of("ro=true").read_only
    assert not of("ro=false").read_only
    assert not of("rw").read_only
    assert of("") == MountOptions()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("conections=4", ["conections", "did you mean 'connections'"]),
        ("connections=17", ["connections", "'17'", "1 to 16"]),
        ("connections", ["connections", "no value", "1 to 16"]),
        ("connections=+4", ["'+4'"]),
        ("connections=４", ["connections"]),
        ("read-ahead=5", ["read-ahead", "'5'", "128KiB to 256MiB"]),
        ("uncommitted=5000KiB", ["uncommitted", "MiB"]),
        ("attr-ttl=1h", ["attr-ttl", "'1h'", "ms, s or m"]),
        ("consistency=strong", ["consistency", "'strong'", "cto or bounded or sealed or close-to-open"]),
        ("ro=yes", ["ro", "'yes'", "true or false"]),
        ("ro,rw", ["'rw'", "contradicts", "'ro'"]),
        ("threads=2,threads=3", ["threads", "contradicts"]),
        ("timeout=5s", ["timeout", "soft"]),
        ("soft,timeout=5s,hard", ["hard", "contradicts"]),
        (",", ["an empty option"]),
        ("suid", ["suid"]),
        ("master=host:1", ["master"]),
    ],
)
def test_errors_name_option_value_and_what_is_allowed(text: str, words: list[str]) -> None:
    message = refused(text)
    for word in words:
        assert word in message


def test_long_values_are_not_repeated_in_full() -> None:
    assert len(refused("connections=" + "9" * 100_000)) < 500
    assert len(refused("x" * 100_000)) < 500


@given(name=st.sampled_from(sorted(OPTIONS)), value=st.text(max_size=40))
def test_a_value_sets_its_own_option_only(name: str, value: str) -> None:
    """Mount flags and volume attributes arrive as (name, value); whatever is in the value, no other option changes."""
    try:
        options = parse([(name, value)], origin=ORIGIN)
    except DriverError as error:
        assert error.code is Code.INVALID_ARGUMENT
        return
    changed = set(options.given())
    assert changed <= {OPTIONS[name].field}
    assert not set(value) & set(",=\n\0 \"'")


@given(
    st.sampled_from(sorted(OPTIONS)),
    st.text(max_size=20),
    st.sampled_from([",", "=", "\n", "\0", "..", ", ro", "\n-o ro"]),
    st.text(max_size=20),
)
def test_separators_inside_a_mount_flag_never_pass(name: str, before: str, separator: str, after: str) -> None:
    with pytest.raises(DriverError):
        parse([parse_item(f"{name}={before}{separator}{after}")], origin=ORIGIN)


@given(st.text(max_size=200))
def test_any_list_parses_or_is_refused_clearly(text: str) -> None:
    try:
        of(text)
    except DriverError as error:
        assert error.code is Code.INVALID_ARGUMENT
        assert error.message


def test_daemon_config_has_everything() -> None:
    config = of(
        "ro,soft,timeout=3s,port=2050,mountport=2051,threads=4,unprivileged-port,log-level=debug"
    ).daemon_config(SOURCE)
    assert (config.source.host, config.source.port, config.source.mount_port, config.source.path) == (
        "nas",
        2050,
        2051,
        "/data",
    )
    assert (config.read_only, config.soft, config.timeout_ms, config.threads) == (True, True, 3000, 4)
    assert (config.unprivileged_port, config.log_level, config.attr_ttl_ms) == (True, "debug", 3000)
    assert of("").daemon_config(SOURCE).timeout_ms == 0


def test_a_limit_of_memory_is_in_mib() -> None:
    assert of("memory-max=1GiB").daemon_config(SOURCE).memory_max_mib == 1024
    assert of("").daemon_config(SOURCE).memory_max_mib == 0
    with pytest.raises(DriverError, match="64MiB"):
        of("memory-max=32MiB")


def test_ports_are_given_once() -> None:
    source = Source.parse("nfs://nas:2050/data")
    assert of("port=2050").daemon_config(source).source.port == 2050
    with pytest.raises(DriverError, match="contradicts"):
        of("port=2049").daemon_config(source)


def test_markdown_has_one_row_for_each_option() -> None:
    lines = markdown().splitlines()
    assert len(lines) == 2 + len(OPTIONS)
    assert all(line.count("|") == 6 for line in lines)


def test_options_of_a_mounted_dataset() -> None:
    config = of("soft,timeout=5s,threads=4").daemon_config(SOURCE)
    other = changed(config, parse_list("threads=8,attr-ttl=0s"), origin=ORIGIN)
    assert other == of("soft,timeout=5s,threads=8,attr-ttl=0s").daemon_config(SOURCE)
    assert config.threads == 4
    assert changed(config, parse_list("hard"), origin=ORIGIN) == of("threads=4").daemon_config(SOURCE)
    assert changed(config, parse_list("timeout=9s"), origin=ORIGIN).timeout_ms == 9000
    hard = of("").daemon_config(SOURCE)
    assert changed(hard, parse_list("soft"), origin=ORIGIN) == of("soft").daemon_config(SOURCE)
    for text, words in [("ro", "cannot change"), ("port=3", "cannot change"), ("timeout=9s", "needs 'soft'")]:
        with pytest.raises(DriverError, match=words):
            changed(hard, parse_list(text), origin=ORIGIN)


def fields_of(message: Descriptor) -> dict[str, FieldDescriptor]:
    """The fields that hold values, those of messages within included; a list is one value."""
    found: dict[str, FieldDescriptor] = {}
    for field in message.fields:
        inner = None if field.is_repeated else field.message_type
        within = {field.name: field} if inner is None else fields_of(inner)
        assert not found.keys() & within.keys(), "an option names its field"
        found |= within
    return found


def test_the_table_and_the_protocol_agree() -> None:
    fields = fields_of(efc_pb2.DaemonConfig.DESCRIPTOR)  # type: ignore[arg-type]
    options = {option.field: option for option in OPTIONS.values()}
    assert not options.keys() - fields.keys()
    assert fields.keys() - options.keys() == {"host", "path", "sources", "no_splice"}, "of sources, and of tests"
    types = {Kind.FLAG: FieldDescriptor.TYPE_BOOL} | dict.fromkeys(
        (Kind.CHOICE, Kind.ENDPOINTS, Kind.PATH, Kind.IDS), FieldDescriptor.TYPE_STRING
    )
    for name, field in fields.items():
        value: efc_pb2.Change = field.GetOptions().Extensions[efc_pb2.change]  # type: ignore[index]
        change = efc_pb2.Change.Name(value)
        assert change in Change.__members__, f"{name} says what another value of it takes"
        if option := options.get(name):
            assert option.change is Change[change]
            assert field.type == types.get(option.kind, FieldDescriptor.TYPE_UINT32)
            # Of two words for one field the keeper says the one that sets it.
            assert field.GetOptions().Extensions[efc_pb2.option_name] in {  # type: ignore[index]
                option.name for option in OPTIONS.values() if option.field == name and option.sets
            }


def test_what_it_takes_to_change_an_option() -> None:
    def of_change(change: Change) -> set[str]:
        return {name for name, option in OPTIONS.items() if option.change is change}

    assert of_change(Change.LIVE) == {
        "attr-ttl", "attr-ttl-max", "entry-ttl", "read-ahead", "write-behind", "workers", "cache-size", "hang-limit",
        "log-level", "passthrough", "prefetch",
    }  # fmt: skip
    assert of_change(Change.NEW_MOUNT) == {
        "ro", "rw", "port", "mountport", "consistency", "small-files", "idmap", "network", "fuse-features"
    }  # fmt: skip
    for name in of_change(Change.LIVE) | of_change(Change.NEW_DAEMON):
        assert OPTIONS[name].field in fields_of(efc_pb2.DaemonConfig.DESCRIPTOR)  # type: ignore[arg-type]


def test_small_files_are_read_only_in_one_name_and_not_in_close_to_open() -> None:
    for mode in ("bounded", "sealed"):
        config = of(f"ro,consistency={mode},small-files=1000:0").daemon_config(SOURCE)
        assert config.freshness.small_files == "1000:0"
    with pytest.raises(DriverError, match="needs 'ro'"):
        of("consistency=bounded,small-files=1000:1000")
    with pytest.raises(DriverError, match="needs 'consistency=bounded' or 'consistency=sealed'"):
        of("ro,small-files=1000:1000")
    for ids in ("", "1000", "1000:", "-1:0", "4294967295:0", "0:4294967295", "99999999999:0", "a:b", "1:2:3"):
        with pytest.raises(DriverError, match="allowed is UID:GID"):
            of(f"ro,consistency=bounded,small-files={ids}")


def test_workers_need_a_key_and_may_change() -> None:
    text = "workers=10.0.0.7:11211+cache-1.example:11211*2+[fd00::7]:11211"
    config = of(f"{text},workers-key=/etc/efc/key").daemon_config(SOURCE)
    assert (f"workers={config.cache.workers}", config.cache.workers_key) == (text, "/etc/efc/key")
    assert not of("").daemon_config(SOURCE).HasField("cache")
    with pytest.raises(DriverError, match="needs 'workers-key'"):
        of(text)
    with pytest.raises(DriverError, match="needs 'workers-key'"):
        changed(of("").daemon_config(SOURCE), parse_list(text), origin=ORIGIN)
    assert changed(config, parse_list("workers="), origin=ORIGIN).cache.workers == ""
    of_file = changed(config, parse_list("workers=/etc/efc/workers"), origin=ORIGIN)
    assert of_file.cache.workers == "/etc/efc/workers"


def test_an_empty_value_takes_an_option_off_a_mounted_dataset() -> None:
    plain = of("").daemon_config(SOURCE)
    for name, option in OPTIONS.items():
        if option.change is Change.NEW_MOUNT:
            with pytest.raises(DriverError, match="cannot change while mounted"):
                changed(plain, parse_list(f"{name}="), origin=ORIGIN)
        else:
            assert changed(plain, parse_list(f"{name}="), origin=ORIGIN) == plain, name
    text = "soft,timeout=5s,connections=2,memory-max=1GiB,prefetch=off,log-level=warn,unprivileged-port"
    given = of(text).daemon_config(SOURCE)
    names = ",".join(f"{item.partition('=')[0]}=" for item in text.split(","))
    assert changed(given, parse_list(names), origin=ORIGIN) == plain
    with pytest.raises(DriverError, match="contradicts"):
        changed(given, parse_list("connections=,connections=3"), origin=ORIGIN)
    with pytest.raises(DriverError, match="allowed is"):
        of("connections=")


def test_caches_are_taken_off_with_what_belongs_to_them() -> None:
    store = "cache-size=1GiB,cache-dir=/c,cache-free=5,passthrough=off"
    both = of(f"workers=a:1,workers-key=/k,{store}").daemon_config(SOURCE)
    without_store = changed(both, parse_list("cache-size="), origin=ORIGIN)
    assert without_store == of("workers=a:1,workers-key=/k").daemon_config(SOURCE)
    without_any = changed(without_store, parse_list("workers=,workers-key="), origin=ORIGIN)
    assert without_any == of("").daemon_config(SOURCE)
    with pytest.raises(DriverError, match="needs 'workers-key'"):
        changed(both, parse_list("workers-key="), origin=ORIGIN)
    with pytest.raises(DriverError, match="'cache-dir' in -o needs 'cache-size'"):
        changed(both, parse_list("cache-size=,cache-dir=/d"), origin=ORIGIN)


@pytest.mark.parametrize(
    "value",
    ["nas", "nas:0", "nas:65536", ":1", "a:1+", "+a:1", "a:1++b:1", "a b:1", "[10.0.0.1]:1", "fd00::7:1", "a:1*0",
     "a:1*1000001", "a:1*", "a:1;b:1", "/a b", "a:1+/file", "file", "a:" + "1" * 5000],
)  # fmt: skip
def test_workers_are_endpoints(value: str) -> None:
    with pytest.raises(DriverError, match="HOST:PORT"):
        parse([("workers", value), ("workers-key", "/key")], origin=ORIGIN)


@pytest.mark.parametrize("value", ["", "key", "./key", "/a\nb", "/a b"])
def test_a_key_is_a_file_by_its_absolute_path(value: str) -> None:
    with pytest.raises(DriverError, match="an absolute path"):
        parse([("workers-key", value)], origin=ORIGIN)


def test_the_consistency_mode_is_one_of_three() -> None:
    assert of("consistency=close-to-open") == of("consistency=cto") == of("")
    config = of("consistency=bounded,attr-ttl=5s,attr-ttl-max=2m").daemon_config(SOURCE)
    assert (config.freshness.consistency, config.attr_ttl_ms, config.freshness.attr_ttl_max_ms) == (
        "bounded", 5000, 120_000
    )  # fmt: skip
    assert consistency_of(config) == "bounded"
    assert consistency_of(of("").daemon_config(SOURCE)) == "cto"
    other = changed(config, parse_list("attr-ttl-max=10s"), origin=ORIGIN)
    assert (other.freshness.consistency, other.freshness.attr_ttl_max_ms) == ("bounded", 10_000)
    with pytest.raises(DriverError, match="cannot change"):
        changed(config, parse_list("consistency=cto"), origin=ORIGIN)


def test_settings_of_a_configuration_are_flat() -> None:
    settings = settings_of(of("ro,consistency=sealed").daemon_config(SOURCE))
    assert settings["consistency"] == "sealed"
    assert (settings["read_only"], settings["attr_ttl_max_ms"]) == (True, 60_000)
    assert "source" not in settings
    assert "freshness" not in settings


def test_a_local_store_has_a_size_and_may_have_a_place() -> None:
    assert of("cache-size=2TiB").store_mib == 2 << 20
    config = of("cache-size=64MiB,cache-dir=/ssd/cache,cache-free=5").daemon_config(SOURCE)
    assert (config.cache.store_mib, config.cache.store_dir, config.cache.store_free_percent) == (64, "/ssd/cache", 5)
    assert of("cache-free=5").daemon_config(SOURCE).cache.store_free_percent == 0, "nobody asks"
    for text, why in {
        "cache-dir=/ssd": "needs 'cache-size'",
        "cache-size=63MiB": "64MiB to 1024TiB",
        "cache-size=64MiB,cache-dir=relative": "an absolute path",
        "cache-size=64MiB,cache-free=0": "1 to 90",
    }.items():
        with pytest.raises(DriverError, match=why):
            of(text)
