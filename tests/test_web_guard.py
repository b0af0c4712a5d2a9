"""Which addresses are reached, whatever a URL, a redirect or a name server says; robots.txt."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from ipaddress import ip_address

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from openweb import (
    at_home,
    pages,
    refusal,
    visit,
)
from website import Website, answer, redirect, website

from nanoscout.search.web.guard import Address, is_public, resolve, web_url
from nanoscout.search.web.robots import may_read, rules_for


@pytest.fixture
def site() -> Iterator[Website]:
    with website() as site:
        yield site


PRIVATE = """0.0.0.0 10.1.2.3 100.64.0.1 127.0.0.1 127.8.9.1 169.254.169.254 172.16.0.1
192.0.0.8 192.168.1.1 198.18.0.1 203.0.113.7 224.0.0.1 240.0.0.1 255.255.255.255 :: ::1 ::7f00:1
fe80::1 fec0::1 fc00::1 fd12::1 ff02::1 100::1 2001::1 2001:db8::1 2002:7f00:1:: 3fff::1
::ffff:127.0.0.1 ::ffff:10.0.0.1 64:ff9b::7f00:1 64:ff9b:1::1"""
PUBLIC = "8.8.8.8 93.184.215.14 2606:4700::1 ::ffff:8.8.8.8 64:ff9b::808:808"


def test_which_addresses_are_public() -> None:
    assert [text for text in PRIVATE.split() if is_public(ip_address(text))] == []
    assert [text for text in PUBLIC.split() if not is_public(ip_address(text))] == []


NUMBERS = ["127.0.0.1", "127.1", "2130706433", "0x7f.1", "0x7f000001", "017700000001", "0"]
NUMBERS += ["[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::]", "127。0。0。1", "localhost"]


@pytest.mark.parametrize("host", NUMBERS)
def test_no_spelling_of_this_machine_is_reached(site: Website, host: str) -> None:
    page = visit(site, f"http://{host}:{site.port}/", resolve=resolve, allowed=set())
    assert refusal(page).endswith("is not on the public web")
    assert site.heard == []


def test_a_name_of_a_private_address_is_not_reached(site: Website) -> None:
    async def mixed(host: str) -> list[Address]:
        return [ip_address("8.8.8.8"), ip_address("127.0.0.1")]

    for names in (at_home, mixed):
        page = visit(site, "http://innocent.test/", resolve=names, allowed=set())
        assert refusal(page) == "innocent.test is not on the public web"
    assert site.heard == []


def test_a_name_without_an_address_is_said_to_have_none(site: Website) -> None:
    async def nowhere(host: str) -> list[Address]:
        raise socket.gaierror(-2, "Name or service not known")

    assert refusal(visit(site, "http://no.test/", resolve=nowhere)) == "there is no host no.test"
    page = visit(site, f"http://a..b:{site.port}/", resolve=resolve)
    assert refusal(page) == "there is no host a..b"


@pytest.mark.parametrize("port", [22, 25, 6379, 9200, 99_999, -1])
def test_only_web_ports_are_reached(site: Website, port: int) -> None:
    async def public(host: str) -> list[Address]:
        return [ip_address("8.8.8.8")]

    page = visit(site, f"http://public.test:{port}/", resolve=public)
    assert refusal(page) == f"port {port} is none of the web's"


def test_redirects_are_followed_and_checked(site: Website) -> None:
    site.replies["/end"] = answer(b"the end", kind="text/plain")
    site.replies["/1"] = redirect("end")
    site.replies["/2"] = redirect(f"http://elsewhere.test:{site.port}/1")
    assert visit(site, "/2").text == "the end"
    assert [heard.headers["host"].partition(":")[0] for heard in site.heard] == [
        *["site.test"] * 2,
        *["elsewhere.test"] * 3,
    ]
    site.replies["/3"] = redirect("/2")
    site.replies["/4"] = redirect("/3")
    assert refusal(visit(site, "/4")) == "it redirects more than 3 times"
    site.replies["/round"] = redirect("/round")
    assert refusal(visit(site, "/round")) == "it redirects more than 3 times"


@pytest.mark.parametrize(
    "location",
    ["file:///etc/passwd", "ftp://a.b/", "http://u:p@site.test/", "http://[::1", "\xff:"],
)
def test_redirects_to_what_is_no_web_page(site: Website, location: str) -> None:
    site.replies["/page"] = redirect(location)
    reason = refusal(visit(site, "/page"))
    assert reason in ("it redirects to what is no web page", "its site answers 404")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0x7f.1"])
def test_redirects_to_a_private_address_go_nowhere(site: Website, host: str) -> None:
    async def names(host: str) -> list[Address]:
        return await at_home(host) if host == "site.test" else await resolve(host)

    with website() as secret:
        secret.replies["/"] = answer("the password is 42")
        site.replies["/page"] = redirect(f"http://{host}:{secret.port}/")
        page = visit(site, "/page", resolve=names)
        assert refusal(page).endswith("is not on the public web")
        assert secret.heard == []


def test_a_name_that_moves_to_a_private_address_leads_nowhere(site: Website) -> None:
    """DNS rebinding: what is connected to is what was checked, at each new connection."""
    asked = []

    async def moves(host: str) -> list[Address]:
        asked.append(host)
        return [ip_address("127.0.0.1" if len(asked) < 3 else "127.0.0.2")]

    with website("127.0.0.2", site.port) as secret:
        secret.replies["/secret"] = answer("the password is 42")
        site.replies["/robots.txt"] = answer("", 404, Connection="close")
        site.replies["/page"] = redirect("/secret")
        page = visit(site, f"http://moving.test:{site.port}/page", resolve=moves)
        assert refusal(page) == "moving.test is not on the public web"
        assert site.paths == ["/robots.txt", "/page"]
        assert secret.heard == []
        assert len(asked) == 3


def test_tls_asks_for_the_name_and_not_for_the_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        hellos = []

        def listen() -> None:
            connection, _ = server.accept()
            with connection:
                hellos.append(connection.recv(10_000))

        thread = threading.Thread(target=listen)
        thread.start()
        site = Website(server.getsockname()[1])
        assert refusal(visit(site, f"https://site.test:{site.port}/"))
        thread.join()
    assert b"site.test" in hellos[0]


ODD = ["", " ", "w.org", "//w.org", "http://", "http:///a", "javascript:alert(1)", "mailto:a@b"]
ODD += [
    "file:///etc/passwd",
    "ftp://w.org/",
    "http://user@w.org/",
    "http://u:p@w.org/",
    "http://[::1",
]
ODD += ["http://a\\@w.org/", "http://w.org:x/", "http://\ud800/", "http://①②⑦.0.0.1/", "\0"]
ODD += ["http://w.org:0/", "gopher://w.org", "http://w.org/\n", "http://w.org/" + "a" * 5_000]


@pytest.mark.parametrize("text", ODD)
def test_what_is_no_web_address_is_no_page(site: Website, text: str) -> None:
    if text != "http://w.org/\n":  # white space around it does no harm
        assert web_url(text) is None
        assert asyncio.run(pages(site).visit(text, 100)) is None
    assert site.heard == []


async def numbers(host: str) -> list[Address]:
    """As the system's resolver, for numbers; no name is looked up."""
    try:
        found = socket.getaddrinfo(host, None, flags=socket.AI_NUMERICHOST)
    except OSError:
        return [ip_address("127.0.0.1")]
    return [ip_address(place[0]) for *_, place in found]


HOSTS = st.sampled_from(["127.0.0.1", "[::1]", "localhost", "2130706433", "w.org", "０x7f.1"])
URLS = st.builds(
    "{}{}{}{}{}".format,
    st.sampled_from(["http://", "https://", "HTTP:\\\\", "http:/", "//", "http://a@", ""]),
    HOSTS | st.text(st.characters(), max_size=20),
    st.sampled_from(["", ":80", ":", ":0x50", ":-1", ".", "%00", "#@w.org", "\\@w.org"]),
    st.sampled_from(["/", "", "?", "/../..//", "/%2e%2e/"]),
    st.text(st.characters(), max_size=20),
)


@pytest.fixture(scope="module")
def silent() -> Iterator[Website]:
    with website() as site:
        yield site


@given(URLS | st.text(st.characters()))
@example("http://127.0.0.1:PORT/")
@example("http://w.org:PORT@127.0.0.1:PORT/")
@settings(max_examples=200, deadline=None)
def test_no_url_reaches_this_machine(silent: Website, text: str) -> None:
    text = text.replace("PORT", str(silent.port))
    page = asyncio.run(pages(silent, resolve=numbers, allowed=set()).visit(text, 100))
    if page is not None:
        reasons = ("is not on the public web", "is none of the web's", "there is no host")
        assert any(reason in refusal(page) for reason in reasons)
    assert silent.heard == []


# robots.txt


def test_robots_txt_is_respected(site: Website) -> None:
    site.replies["/robots.txt"] = answer("User-agent: *\nDisallow: /private\n", kind="text/plain")
    site.replies["/private/a"] = site.replies["/public"] = answer(b"text", kind="text/plain")
    site.replies["/moved"] = redirect("/private/a")
    reason = "its site wants no robots to read it (robots.txt)"

    async def read() -> None:
        reading = pages(site)
        assert (await reading.visit(f"{site.url}/public", 100)).text == "text"
        assert refusal(await reading.visit(f"{site.url}/private/a", 100)) == reason
        assert refusal(await reading.visit(f"{site.url}/moved", 100)) == reason

    asyncio.run(read())
    assert site.paths == ["/robots.txt", "/public", "/moved"]


def test_a_site_whose_robots_txt_fails_is_left_alone(site: Website) -> None:
    site.replies["/page"] = answer(b"text", kind="text/plain")
    site.replies["/robots.txt"] = answer("", 503)
    assert refusal(visit(site, "/page")) == "its site's robots.txt: its site answers 503"
    assert "/page" not in site.paths
    site.replies["/robots.txt"] = answer("", 403)
    assert visit(site, "/page").text == "text"


def test_a_huge_robots_txt_is_read_as_far_as_it_has_to_be(site: Website) -> None:
    rules = b"User-agent: *\nDisallow: /private\n" + b"Disallow: /x\n" * 200_000
    site.replies["/robots.txt"] = answer(rules, kind="text/plain")
    site.replies["/page"] = site.replies["/private"] = answer(b"text", kind="text/plain")
    assert visit(site, "/page").text == "text"
    assert "no robots" in refusal(visit(site, "/private"))


@pytest.mark.parametrize(
    ("rules", "path", "allowed"),
    [
        ("", "/a", True),
        ("User-agent: *\nDisallow:", "/a", True),
        ("User-agent: *\nDisallow: /", "/a", False),
        ("User-agent: *\nDisallow: /*", "/a", False),
        ("user-agent: *\ndisallow: /a # why", "/ab?q", False),
        ("User-agent: *\nDisallow: /a/*/c", "/a/b/b/cd", False),
        ("User-agent: *\nDisallow: /a/*/c", "/a/c", True),
        ("User-agent: *\nDisallow: /*.php$", "/x.php", False),
        ("User-agent: *\nDisallow: /*.php$", "/x.php?y", True),
        ("User-agent: *\nDisallow: /a$", "/a", False),
        ("User-agent: *\nDisallow: /a$", "/ab", True),
        ("User-agent: *\nDisallow: /ab*ab$", "/ab", True),
        ("User-agent: *\nDisallow: /a\nAllow: /a/b", "/a/b/c", True),
        ("User-agent: *\nAllow: /a/b\nDisallow: /a", "/a/c", False),
        ("User-agent: *\nDisallow: /a\nAllow: /a", "/a", True),
        ("User-agent: *\nDisallow: /%7Ea/é", "/~a/%C3%A9", False),
        ("User-agent: *\nDisallow: /%2f", "/%2F", False),
        ("User-agent: x\nDisallow: /\n\nUser-agent: *\nAllow: /", "/a", True),
        ("User-agent: Nanoscout/1\nDisallow: /b\n\nUser-agent: *\nDisallow: /", "/a", True),
        ("User-agent: *\nDisallow: /\n\nUser-agent: nanoscout\nDisallow:", "/a", True),
        ("User-agent: x\nUser-agent: nanoscout\nCrawl-delay: 1\nDisallow: /a", "/a", False),
        ("User-agent: nanoscout\nDisallow: /a\nUser-agent: x\nDisallow: /b", "/b", True),
        ("User-agent: nanoscouts\nDisallow: /", "/a", True),
        ("Disallow: /\nnonsense\n: :\nUser-agent", "/a", True),
    ],
)
def test_robots_rules(rules: str, path: str, allowed: bool) -> None:
    assert may_read(rules_for(rules, "nanoscout"), path) is allowed


@given(st.text(st.characters()), st.text(st.characters()))
def test_any_robots_txt_is_read(text: str, path: str) -> None:
    assert may_read(rules_for(text, "nanoscout"), "/") in (True, False)
    closed = f"{text}\nUser-agent: nanoscout\nDisallow: /\n"
    named = "nanoscout" in text.lower()
    assert named or not may_read(rules_for(closed, "nanoscout"), f"/{path}")


def test_a_hostile_robots_txt_takes_no_longer_than_a_long_one() -> None:
    started = time.process_time()
    crowd = "User-agent: nanoscout\n" * 10_000 + "Disallow: /*a*a*a*a*a*a*a*b$\n" * 10_000
    assert may_read(rules_for(crowd, "nanoscout"), "/" + "a" * 4_000)
    stars = "User-agent: *\nDisallow: /" + "*a" * 250_000 + "b"
    assert may_read(rules_for(stars, "nanoscout"), "/" + "a" * 4_000)
    assert time.process_time() - started < 60  # a quadratic one takes hours
