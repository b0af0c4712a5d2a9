"""Getting one page from the web: within limits of size and time, and only if its site lets robots.

Redirects are followed by hand, so that every address on the way is checked (guard.py) and every
site's robots.txt asked. A page's bytes are unpacked here too, no further than the limit.
"""

import asyncio
import ssl
import time
import zlib
from collections import OrderedDict
from dataclasses import dataclass
from functools import cache

import httpcore2
import httpx2

from nanoscout import __version__
from nanoscout.search.web import robots
from nanoscout.search.web.guard import GuardedNetwork, Unreadable, web_url
from nanoscout.search.web.robots import Rule, may_read, rules_for

AGENT = "nanoscout"
"""What robots.txt files call us."""

HEADERS = [
    (b"User-Agent", f"{AGENT}/{__version__} (+{AGENT})".encode()),
    (b"Accept", b"text/html, application/xhtml+xml, application/pdf, text/*;q=0.9, */*;q=0.1"),
    (b"Accept-Encoding", b"gzip, deflate"),
]

CONNECT_SECONDS = 5.0
"""For one address of a host; the next one is tried after it."""

ROBOTS_SECONDS = 3_600
"""How long a site's robots.txt is remembered."""

ROBOTS_SITES = 1_000
"""How many of them are."""


@dataclass(frozen=True)
class Limits:
    bytes: int = 5_000_000
    """Size of a page, packed and unpacked."""
    seconds: float = 30.0
    """From the first look-up of a name to the last byte, redirects and robots.txt included."""
    redirects: int = 5


@dataclass(frozen=True)
class Fetched:
    content: bytes
    content_type: str
    cut: bool
    """Whether the page is larger than the limit, and this its beginning."""


class Fetcher:
    """Fetches pages, and remembers what their sites' robots.txt say."""

    def __init__(self, network: GuardedNetwork, limits: Limits = Limits()):
        self._network = network
        self._limits = limits
        self._robots: OrderedDict[str, tuple[float, list[Rule]]] = OrderedDict()

    async def fetch(self, url: httpx2.URL) -> Fetched:
        """The page at `url` or where it redirects to; raises Unreadable."""
        try:
            async with (
                asyncio.timeout(self._limits.seconds),
                httpcore2.AsyncConnectionPool(
                    ssl_context=tls(), network_backend=self._network
                ) as pool,
            ):
                return await self._fetch(pool, url)
        except TimeoutError:
            raise Unreadable(f"no answer within {self._limits.seconds:g} s") from None

    async def _fetch(self, pool: httpcore2.AsyncConnectionPool, url: httpx2.URL) -> Fetched:
        for _ in range(self._limits.redirects + 1):
            if not may_read(await self._rules(pool, url), url.raw_path.decode()):
                raise Unreadable("its site wants no robots to read it (robots.txt)")
            answer = await _get(pool, url, self._limits.bytes)
            if isinstance(answer, Fetched):
                if answer.cut:
                    raise Unreadable(f"it is larger than {self._limits.bytes / 1e6:g} MB", 200)
                return answer
            url = answer
        raise Unreadable(f"it redirects more than {self._limits.redirects} times")

    async def _rules(self, pool: httpcore2.AsyncConnectionPool, url: httpx2.URL) -> list[Rule]:
        """What a site's robots.txt asks of us: nothing where it has none (RFC 9309, 2.3.1)."""
        site = f"{url.scheme}://{url.netloc.decode()}"
        until, rules = self._robots.get(site, (0.0, []))
        if until > time.monotonic():
            return rules
        try:
            text = await self._robots_of(pool, url.join("/robots.txt"))
        except Unreadable as error:
            if error.status >= 500:
                raise Unreadable(f"its site's robots.txt: {error}", error.status) from None
            if error.status < 400:
                raise
            text = ""
        rules = rules_for(text, AGENT)
        self._robots[site] = (time.monotonic() + ROBOTS_SECONDS, rules)
        if len(self._robots) > ROBOTS_SITES:
            self._robots.popitem(last=False)
        return rules

    async def _robots_of(self, pool: httpcore2.AsyncConnectionPool, url: httpx2.URL) -> str:
        for _ in range(self._limits.redirects + 1):
            answer = await _get(pool, url, robots.MAX_BYTES)
            if isinstance(answer, Fetched):
                return answer.content.decode("utf-8-sig", errors="replace")
            url = answer
        return ""


@cache
def tls() -> ssl.SSLContext:
    """Which certificates are trusted; reading them takes a while, so once."""
    return httpx2.create_ssl_context(trust_env=False)


async def _get(
    pool: httpcore2.AsyncConnectionPool, url: httpx2.URL, limit: int
) -> Fetched | httpx2.URL:
    """What one request brings: a page, at most `limit` bytes of it, or where it redirects to."""
    target = httpcore2.URL(
        scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
    )
    packed = bytearray()
    try:
        async with pool.stream(
            b"GET",
            target,
            headers=[(b"Host", url.netloc), *HEADERS],
            extensions={"timeout": {"connect": CONNECT_SECONDS}},
        ) as response:
            headers = httpx2.Headers(response.headers)
            if response.status in (301, 302, 303, 307, 308) and "location" in headers:
                return _redirected(url, headers["location"])
            if not 200 <= response.status < 300:
                raise Unreadable(f"its site answers {response.status}", response.status)
            async for piece in response.aiter_stream():
                packed += piece
                if len(packed) > limit:
                    break
    except (httpcore2.NetworkError, httpcore2.ProtocolError) as error:
        reason = str(error) or type(error).__name__
        raise Unreadable(f"its site cannot be reached ({reason})") from error
    except httpcore2.TimeoutException:
        raise Unreadable("its site does not answer") from None
    content = _unpacked(bytes(packed), headers.get("content-encoding", ""), limit + 1)
    cut = max(len(packed), len(content)) > limit
    return Fetched(content[:limit], headers.get("content-type", ""), cut)


def _redirected(url: httpx2.URL, location: str) -> httpx2.URL:
    try:
        target = web_url(str(url.join(location)))
    except (httpx2.InvalidURL, UnicodeError):
        target = None
    if target is None:
        raise Unreadable("it redirects to what is no web page")
    return target


def _unpacked(packed: bytes, encoding: str, limit: int) -> bytes:
    """The first `limit` bytes of what was packed."""
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return packed
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise Unreadable("it is packed in a way that was not asked for")
    # zlib's or gzip's header; or none at all, which some sites call deflate too.
    bits = -15 if encoding == "deflate" and packed[:1] != b"\x78" else 47
    try:
        return zlib.decompressobj(bits).decompress(packed, limit)
    except zlib.error:
        raise Unreadable("it is packed in a broken way") from None
