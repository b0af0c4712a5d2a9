"""Pages of the open web: real servers on loopback, their formats, sizes, times and packing."""

import asyncio
import gzip
import json
import socket
import threading
import time
import zlib
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openweb import (
    pages,
    refusal,
    visit,
)
from website import Handler, Website, answer, website

from nanoscout import __version__
from nanoscout.search.web import reader
from nanoscout.search.web.fetch import Limits

OTTER = "The otter lives by the river, and eats fish, crabs and frogs all year long."
CRAB = "The crab walks sideways on the beach, and has two claws to keep others away from it."
GERMAN = "Über den großen Fluß führt seit fünf Jahren keine Brücke mehr, sagt man in Köln"
ARTICLE = (
    "<!doctype html><html><head><title>Otters</title><script>alert('boo')</script></head>"
    f"<body><nav><a href='/'>Home</a></nav><article><h1>Otters</h1><p>{OTTER}</p><p>{CRAB}</p>"
    "<ul><li>fish</li><li>crabs</li></ul></article></body></html>"
)


@pytest.fixture
def site() -> Iterator[Website]:
    with website() as site:
        yield site


def test_a_page_is_read_without_its_trimmings(site: Website) -> None:
    site.replies["/otters"] = answer(ARTICLE)
    page = visit(site, "/otters?a=b#top")
    assert page.title == "Otters"
    assert page.text == f"Otters\n{OTTER}\n{CRAB}\n- fish\n- crabs"
    assert page.url == page.passage_id == f"http://site.test:{site.port}/otters?a=b#top"
    assert site.paths == ["/robots.txt", "/otters?a=b"]
    assert site.heard[1].headers["host"] == f"site.test:{site.port}"
    assert site.heard[1].headers["user-agent"].startswith(f"nanoscout/{__version__} ")


def test_a_long_page_is_read_in_portions(site: Website) -> None:
    words = " ".join(f"word{n}" for n in range(300))
    site.replies["/long.txt"] = answer(words, kind="text/plain")

    async def read() -> str:
        reading, text, offset = pages(site), "", 0
        while offset is not None:
            page = await reading.visit(f"{site.url}/long.txt", 1_000, offset)
            text, offset = f"{text} {page.text}".strip(), page.next_offset
        assert page.title == "long.txt"
        return text

    assert asyncio.run(read()) == words


def minimal_pdf(text: str) -> bytes:
    drawing = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET"
    objects = [
        "<</Type/Catalog/Pages 2 0 R>>",
        "<</Type/Pages/Kids[3 0 R]/Count 1>>",
        "<</Type/Page/Parent 2 0 R/Contents 4 0 R/Resources<</Font<</F1 5 0 R>>>>>>",
        f"<</Length {len(drawing)}>>\nstream\n{drawing}\nendstream",
        "<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]
    body = "".join(f"{n} 0 obj\n{part}\nendobj\n" for n, part in enumerate(objects, start=1))
    return f"%PDF-1.4\n{body}trailer<</Root 1 0 R>>\nstartxref\n0\n%%EOF\n".encode()


@pytest.mark.parametrize(
    ("body", "kind", "text"),
    [
        (minimal_pdf("A pangolin rolls up."), "application/pdf", "A pangolin rolls up."),
        (minimal_pdf("A pangolin rolls up."), "application/octet-stream", "A pangolin rolls up."),
        (b'{"otter": 1}', "application/ld+json", '{"otter": 1}'),
        (b"# Otters\n- fish", "text/markdown; charset=utf-8", "# Otters\n- fish"),
        (b"only text", "", "only text"),
        (b"1 < 2 in plain text", "text/html", "1 < 2 in plain text"),
        (f"<html><body><p>{OTTER}</p></body></html>".encode(), "", OTTER),
        (GERMAN.encode("latin-1"), 'text/plain; charset="ISO-8859-1"', GERMAN),
    ],
)
def test_what_text_is_read_as_text(site: Website, body: bytes, kind: str, text: str) -> None:
    site.replies["/page"] = answer(body, kind=kind)
    assert visit(site, "/page").text == text


@pytest.mark.parametrize(
    ("text", "encoding", "declared"),
    [
        (GERMAN, "utf-8", "iso-8859-1"),
        (GERMAN, "latin-1", "iso-8859-1"),
        (GERMAN, "latin-1", "utf-8"),
        (GERMAN, "latin-1", ""),
        ("川の獺", "shift_jis", "Shift_JIS"),
        ("川の獺", "iso2022_jp", "iso-2022-jp"),
        ("川の獺", "utf-16", "utf-8"),
        ("川の獺", "utf-16-le", "UTF-16LE"),
        ("川の獺", "utf-8-sig", "klingon"),
        ("mnchen-3ya", "ascii", "punycode"),
        ("uryyb", "ascii", "rot13"),
        ("<html><head><meta charset=koi8-r></head><p>Выдра", "koi8-r", ""),
        ("<META HTTP-EQUIV='x' content='text/html; charset=big5'>水獺", "big5", "nonsense"),
    ],
)
def test_charsets(text: str, encoding: str, declared: str) -> None:
    assert reader.decode(text.encode(encoding), declared) == text


@given(st.binary(max_size=300), st.text(max_size=20))
@settings(max_examples=30, deadline=None)
def test_any_bytes_are_some_text(content: bytes, declared: str) -> None:
    assert isinstance(reader.decode(content, declared), str)


@pytest.mark.parametrize(
    ("body", "kind", "reason"),
    [
        (b"\x89PNG", "image/png", "its content is image/png"),
        (b"\0\1\2", "application/octet-stream", "its content is application/octet-stream"),
        (b"\0\1\2", "", "its content is no text"),
        (b"", "text/plain", "it is empty"),
        (b"", "text/html", "it is empty"),
        (b"<html><body></body></html>", "text/html", "no text found in this HTML"),
        (b"%PDF-1.7\n" + bytes(range(256)), "application/pdf", "not a readable PDF"),
    ],
)
def test_what_is_no_text_is_said_to_be_none(
    site: Website, body: bytes, kind: str, reason: str
) -> None:
    site.replies["/page"] = answer(body, kind=kind)
    assert refusal(visit(site, "/page")).startswith(reason)


def test_a_page_that_keeps_its_reader_busy_is_given_up(
    site: Website, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "SECONDS", 0.01)
    site.replies["/page"] = answer(ARTICLE)
    assert refusal(visit(site, "/page")) == "it takes longer than 0.01 s to read"


def test_a_page_that_breaks_its_reader_is_given_up(site: Website) -> None:
    deep = b"%PDF-1.4\n1 0 obj\n" + b"[" * 90_000
    site.replies["/page"] = answer(deep, kind="application/pdf")
    assert refusal(visit(site, "/page"))


@pytest.mark.parametrize("status", [404, 410, 403, 429, 500, 304])
def test_a_site_that_refuses_is_quoted(site: Website, status: int) -> None:
    site.replies["/page"] = answer("no", status)
    assert refusal(visit(site, "/page")) == f"its site answers {status}"


# Sizes, times, packing


def test_a_page_over_the_limit_is_not_read_on(site: Website) -> None:
    def endless(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/plain")
        handler.end_headers()
        while True:
            handler.wfile.write(b"on and on ")

    site.replies["/endless"] = endless
    site.replies["/huge"] = answer(b"x" * 100_001, kind="text/plain")
    site.replies["/just"] = answer(b"x" * 100_000, kind="text/plain")
    assert refusal(visit(site, "/endless")) == "it is larger than 0.1 MB"
    assert site.broken_off.wait(10)
    assert refusal(visit(site, "/huge")) == "it is larger than 0.1 MB"
    assert len(visit(site, "/just").text) == 10_000


def test_a_slow_page_is_given_up(site: Website) -> None:
    def drip(handler: Handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while True:
            handler.wfile.write(b".")
            time.sleep(0.01)

    def drip_headers(handler: Handler) -> None:
        handler.send_response(200)
        while True:
            handler.wfile.write(b"X-More: x\r\n")
            time.sleep(0.01)

    def silence(handler: Handler) -> None:
        handler.connection.recv(1)

    limits = Limits(seconds=0.3)
    for reply in (drip, drip_headers, silence):
        site.replies["/slow"] = reply
        assert refusal(visit(site, "/slow", limits)) == "no answer within 0.3 s"


@pytest.mark.parametrize(
    ("encoding", "body", "expected"),
    [
        ("gzip", gzip.compress(b"packed"), "packed"),
        ("deflate", zlib.compress(b"packed"), "packed"),
        ("deflate", zlib.compress(b"packed")[2:-4], "packed"),
        ("identity", b"packed", "packed"),
        ("gzip", gzip.compress(bytes(50_000_000)), "it is larger than 0.1 MB"),
        ("gzip, gzip", gzip.compress(gzip.compress(b"x")), "it is packed in a way that"),
        ("br", b"packed", "it is packed in a way that was not asked for"),
        ("gzip", b"not packed", "it is packed in a broken way"),
        ("gzip", gzip.compress(b"packed") + b"x" * 200_000, "it is larger than 0.1 MB"),
    ],
)
def test_packed_pages(site: Website, encoding: str, body: bytes, expected: str) -> None:
    site.replies["/page"] = answer(body, kind="text/plain", Content_Encoding=encoding)
    page = visit(site, "/page")
    assert page.text == expected or refusal(page).startswith(expected)


def test_a_gzip_file_in_a_page_is_not_unpacked(site: Website) -> None:
    site.replies["/page"] = answer(gzip.compress(bytes(50_000_000)), kind="text/html")
    assert visit(site, "/page").text.count("\0") < 100_000


def test_a_site_that_speaks_no_http_cannot_be_reached() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def babble() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(10_000)
                connection.sendall(b"220 mail.test ready\r\n")

        thread = threading.Thread(target=babble)
        thread.start()
        site = Website(server.getsockname()[1])
        assert refusal(visit(site, "/")).startswith("its site cannot be reached")
        thread.join()
    assert refusal(visit(site, "/")).startswith("its site cannot be reached")


def test_json_of_the_reader_survives_any_text() -> None:
    title, text = reader.read_page("\0\x1b[2J ü\u2028".encode(), "text", "")
    assert (title, json.loads(json.dumps(text))) == ("", "\0\x1b[2J ü")
