"""A real HTTP server on loopback that says what a test tells it to, and remembers what it heard."""

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Reply = Callable[["Handler"], None]


@dataclass(frozen=True)
class Heard:
    method: str
    path: str
    headers: dict[str, str]
    """With names in lower case."""
    body: bytes


@dataclass
class Website:
    port: int
    host: str = "127.0.0.1"
    replies: dict[str, Reply] = field(default_factory=dict)
    """By path, without its query; any other is answered with 404."""
    heard: list[Heard] = field(default_factory=list)
    broken_off: threading.Event = field(default_factory=threading.Event)
    """Whoever asked has hung up before all was said."""

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def paths(self) -> list[str]:
        return [heard.path for heard in self.heard]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Website

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.site.heard.append(Heard(self.command, self.path, headers, body))
        reply = self.site.replies.get(self.path.partition("?")[0], answer("nothing here", 404))
        try:
            reply(self)
        except (BrokenPipeError, ConnectionResetError):
            self.site.broken_off.set()
            self.close_connection = True

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass


def answer(body: str | bytes, status: int = 200, kind: str = "text/html", **headers: str) -> Reply:
    content = body.encode() if isinstance(body, str) else body

    def reply(handler: Handler) -> None:
        handler.send_response(status)
        if kind:
            handler.send_header("Content-Type", kind)
        handler.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(content)

    return reply


def redirect(location: str) -> Reply:
    return answer("", 302, Location=location, Connection="close")


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is none."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


@contextlib.contextmanager
def website(host: str = "127.0.0.1", port: int = 0) -> Iterator[Website]:
    with Server((host, port), Handler) as server:
        site = Website(server.server_port, host)
        server.RequestHandlerClass = type("SiteHandler", (Handler,), {"site": site})
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield site
        finally:
            server.shutdown()
            thread.join()
