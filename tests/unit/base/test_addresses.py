"""Addresses that somebody listens at."""

import pytest

from csi.base.addresses import joined_address, parse_address
from csi.base.errors import DriverError


def test_addresses() -> None:
    assert parse_address("127.0.0.1:9820", noun="address") == ("127.0.0.1", 9820)
    assert [parse_address(text, noun="address") for text in ("[fd00::1]:9820", "fd00::1:9820")] == [
        ("fd00::1", 9820)
    ] * 2
    for wrong in ("", "9820", ":9820", "localhost:9820", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:x"):
        with pytest.raises(DriverError, match="metrics address"):
            parse_address(wrong, noun="metrics address")


def test_an_address_and_its_port_are_joined_as_they_are_parsed() -> None:
    for host, port in (("127.0.0.1", 9820), ("fd00::1", 1), ("::", 65535)):
        assert parse_address(joined_address(host, port), noun="address") == (host, port)
    assert joined_address("fd00::1", 9810) == "[fd00::1]:9810"
    assert joined_address("nas.example.com", 2049) == "nas.example.com:2049"
