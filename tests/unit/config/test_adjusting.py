"""What of other options a mounted dataset can be given."""

from __future__ import annotations

from csi.config.adjusting import adjusted
from csi.config.mount_options import parse, parse_list
from csi.config.sources import Source

SOURCE = Source.parse("nfs://nas/data")


def test_what_can_change_does_and_the_rest_is_named() -> None:
    current = parse(parse_list("attr-ttl=1s,threads=3,consistency=bounded"), origin="").daemon_config(SOURCE)
    wanted = parse(parse_list("attr-ttl=2s,ro,idmap,soft,timeout=5s,network=pod"), origin="").daemon_config(SOURCE)
    options, fixed = adjusted(current, wanted)
    assert (options.attr_ttl_ms, options.threads, options.soft, options.timeout_ms) == (2000, 2, True, 5000)
    assert (options.read_only, options.idmap, options.network, options.freshness.consistency) == (
        False, False, "", "bounded",
    )  # fmt: skip
    assert sorted(fixed) == ["consistency", "idmap"]
    assert (current.attr_ttl_ms, current.threads) == (1000, 3), "it was changed itself"


def test_what_is_wanted_already_is_what_there_is() -> None:
    options = parse(parse_list("workers=/w,workers-key=/k,workers-tls=/t,attr-ttl=9s"), origin="").daemon_config(SOURCE)
    assert adjusted(options, options) == (options, [])


def test_workers_come_to_a_dataset_without() -> None:
    wanted = parse(parse_list("workers=/w,workers-key=/k"), origin="").daemon_config(SOURCE)
    options, fixed = adjusted(parse([], origin="").daemon_config(SOURCE), wanted)
    assert (options.cache.workers, options.cache.workers_key, fixed) == ("/w", "/k", [])
