"""Whether a request to this machine was meant for it."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection, MutableMapping
from typing import Any

# Top-level domains that nobody can register.
_PRIVATE = ("localhost", "local", "internal")


def foreign_host(scope: MutableMapping[str, Any], known: Collection[str] = ()) -> str | None:
    """The name in the header Host of a request that has come over the loopback interface, if it is that of
    another machine; else None.

    A web page somewhere can give its own name the address 127.0.0.1 (DNS rebinding), and is then free to ask
    what listens here; the name tells. Addresses are not names; names without a dot, and those that nobody can
    register, are no such page's.

    Args:
        scope: of ASGI.
        known: names that are this machine's too; "*" for all.
    """
    server = scope.get("server")
    if scope["type"] not in ("http", "websocket") or not server or not _is_loopback(server[0]):
        return None
    header = next((value for name, value in scope["headers"] if name == b"host"), b"")
    name = header.decode("latin-1").strip().lower()
    if not name.endswith("]"):  # of an IPv6 address without a port
        name = name.rpartition(":")[0] if ":" in name else name
    name = name.strip("[]").rstrip(".")
    top = name.rpartition(".")[2]
    if "." not in name or top in _PRIVATE or _address(name) or name == socket.gethostname().lower():
        return None
    return None if "*" in known or name in (other.lower() for other in known) else name


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _is_loopback(text: str) -> bool:
    address = _address(text)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return address is not None and address.is_loopback
