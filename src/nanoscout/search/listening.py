"""Where a server listens, and who may ask it: loopback, or a token.

All servers (search over HTTP and MCP, models) take the same addresses and refuse the same clients.
"""

import hmac
import ipaddress
import socket

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response

from nanoscout.errors import UserError

MAX_BODY_BYTES = 2**20
"""Size of a request's body; a larger one is answered with 413."""


def listen(host: str, port: int, token: str, use: str = "search") -> tuple[socket.socket, str]:
    """A listening socket and its URL; port 0 takes a free one. `use`: what clients can do with it.

    Raises UserError where the address cannot be had, or is not loopback and there is no token.
    """
    if not token and not is_loopback(host):
        raise UserError(f"{host}: whoever can reach it could {use}; set a token, or 127.0.0.1")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise UserError(f"{host}:{port}: cannot listen there: {error.strerror}") from None
    # Connections inherit this; without it each answer on a kept one would wait 40 ms for an ACK.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening, url_of(host, listening.getsockname()[1])


def url_of(host: str, port: int) -> str:
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}"


def is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def may_ask(headers: Headers, token: str) -> bool:
    """Whether a request brings the token; without a token every request may."""
    given = headers.get("authorization", "").encode("latin-1")
    return not token or hmac.compare_digest(given, f"Bearer {token}".encode())


def unauthorised() -> Response:
    text = 'this server wants its token; send it in the header "Authorization: Bearer TOKEN"'
    return JSONResponse({"error": text}, 401, headers={"WWW-Authenticate": "Bearer"})
