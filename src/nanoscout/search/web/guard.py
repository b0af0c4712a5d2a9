"""What a page may be fetched from: the public web, and nothing that only this machine can reach.

A URL is checked before anything else. The addresses of its host are checked where the connection
is made, and the connection goes to exactly the address that was checked: so neither a redirect nor
a name server that changes its answer leads to a private network.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Collection, Iterable
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

import httpcore2
import httpx2

PORTS = (80, 443, 8080, 8443)

MAX_URL_CHARS = 4_000

Address = IPv4Address | IPv6Address
Resolve = Callable[[str], Awaitable[list[Address]]]
"""The addresses of a host; raises OSError or UnicodeError where it has none."""

_NAT64 = IPv6Network("64:ff9b::/96")
_GLOBAL_UNICAST = IPv6Network("2000::/3")
_SPECIAL = [
    ip_network(network)
    for network in ("192.0.0.0/24", "192.88.99.0/24", "2001::/23", "2002::/16", "3fff::/20")
]
"""Reserved ranges (IANA's special-purpose registries) that `is_global` takes for public ones."""


class Unreadable(Exception):
    """A page gives no text; the message is the reason, in words for whoever asked for it.

    `status` is what the site answered, 0 where it did not.
    """

    def __init__(self, reason: str, status: int = 0):
        super().__init__(reason)
        self.status = status


def web_url(text: str) -> httpx2.URL | None:
    """The page that `text` names, without its fragment; None where it is no address on the web.

    That is http or https with a host, without a user's name or password.
    """
    if len(text) > MAX_URL_CHARS:
        return None
    try:
        url = httpx2.URL(text.strip())
        str(url).encode()
    except (httpx2.InvalidURL, UnicodeError):
        return None
    if url.scheme not in ("http", "https") or not url.host or url.userinfo or url.port == 0:
        return None
    return url.copy_with(fragment=None)


def is_public(address: Address) -> bool:
    """Whether anyone on the internet reaches the same machine at this address."""
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped
        if address in _NAT64:
            inner = IPv4Address(int(address) & 0xFFFF_FFFF)
        if inner is not None:
            return is_public(inner)
        if address not in _GLOBAL_UNICAST:
            return False
    return (
        address.is_global
        and not address.is_multicast
        and not any(address in network for network in _SPECIAL)
    )


async def resolve(host: str) -> list[Address]:
    """What the system's resolver says, hosts written as numbers included (0x7f.1, 2130706433)."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [ip_address(sockaddr[0]) for *_, sockaddr in found]


class GuardedNetwork(httpcore2.AsyncNetworkBackend):
    """Connects to public addresses and web ports only, and to those `allowed` besides."""

    def __init__(
        self, resolve: Resolve = resolve, allowed: Collection[tuple[str, int]] = frozenset()
    ):
        self._resolve = resolve
        self._allowed = allowed
        self._network = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Raises Unreadable for what may not be reached, httpcore2's errors for what can't be."""
        try:
            addresses = await self._resolve(host)
        except (OSError, UnicodeError):
            raise Unreadable(f"there is no host {host}") from None
        if not addresses:
            raise Unreadable(f"there is no host {host}")
        for address in addresses:
            if (str(address), port) in self._allowed:
                continue
            if not is_public(address):
                raise Unreadable(f"{host} is not on the public web")
            if port not in PORTS:
                raise Unreadable(f"port {port} is none of the web's")
        for address in addresses[:-1]:
            try:
                return await self._network.connect_tcp(str(address), port, timeout)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                continue
        return await self._network.connect_tcp(str(addresses[-1]), port, timeout)
