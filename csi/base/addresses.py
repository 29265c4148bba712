"""Addresses to listen at: ``HOST:PORT``, parsed and printed."""

import contextlib
import ipaddress

from csi.base.errors import invalid

_PORT_MAX = 65535


def parse_address(text: str, *, noun: str) -> tuple[str, int]:
    """Address and port of ``IPv4:PORT`` or ``IPv6:PORT``, brackets or not; raises INVALID_ARGUMENT.

    Not a name: it would have to be looked up. ``0.0.0.0`` and ``::`` are all addresses.
    """
    host, _, port = text.rpartition(":")
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
        if port.isascii() and port.isdecimal() and 0 < int(port) <= _PORT_MAX:
            return str(address), int(port)
    raise invalid(f"{noun} {text!r}: expected an IP address and a port, for example 127.0.0.1:9820")


def joined_address(host: str, port: int) -> str:
    """``HOST:PORT``, with an IPv6 address in brackets: what :func:`parse_address` and URLs take."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
