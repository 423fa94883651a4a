"""What is refused before a request reaches the server: other hosts, other sites, no token, too large a body.

A page of another site can send requests to this machine, but it cannot read the answers, because no CORS header is
sent. By DNS rebinding it could: its name would resolve to this machine. So the header Host must be a name of this
server. Requests that change something must come from the page itself, or from a program that is no browser.
"""

from collections.abc import Iterable
import hmac
from http.cookies import CookieError, SimpleCookie
import ipaddress
import socket
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lrm_jax.view.request_error import RequestError

COOKIE = 'lrm_jax_token'
_DISCARDED = 2**28  # bytes of a body that is too large, which are read so that the client sees the answer
_HEADERS = {
  'content-security-policy': (
    "default-src 'self'; script-src 'self' 'wasm-unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' blob: data:; connect-src 'self' blob: data:; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
  ),
  'cross-origin-resource-policy': 'same-origin',
  'referrer-policy': 'no-referrer',
  'x-content-type-options': 'nosniff',
}


def is_loopback(host: str) -> bool:
  """Returns whether a host, as given with --host, is this machine only."""
  try:
    return ipaddress.ip_address(host.strip('[]')).is_loopback
  except ValueError:
    return host == 'localhost'


class Guard:
  """ASGI middleware with all checks, and with headers that restrict what the page may load.

  `hosts` are names in the header Host, besides localhost and, unless the server is bound to `loopback`, addresses and
  the name of this machine. With a `token`, requests need it as `Authorization: Bearer TOKEN`; a browser that opens
  /?token=TOKEN gets it as a cookie. `max_bytes` is the greatest length of a body.
  """

  def __init__(self, app: ASGIApp, *, loopback: bool, hosts: Iterable[str], token: str | None, max_bytes: int):
    self._app, self._loopback, self._token, self._max_bytes = app, loopback, token, max_bytes
    self._hosts = {host.lower() for host in hosts} | {'localhost'}
    if not loopback:
      self._hosts |= {socket.gethostname().lower(), socket.getfqdn().lower()}

  async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
    if scope['type'] != 'http':
      await self._app(scope, receive, send)
      return

    async def with_headers(message: Message) -> None:
      if message['type'] == 'http.response.start':
        headers = MutableHeaders(scope=message)
        for name, value in _HEADERS.items():
          headers.setdefault(name, value)
        headers.setdefault('cache-control', 'no-store')
      await send(message)

    response = self._refusal(scope)
    if response is None:
      await self._app(scope, _Limited(receive, self._max_bytes), with_headers)
      return
    if response.status_code == 413:
      await _discard(receive)
    await response(scope, receive, with_headers)

  def _refusal(self, scope: Scope) -> Response | None:
    """Returns the answer to a request that is refused or redirected, or None."""
    headers = Headers(scope=scope)
    if not self._is_ours(headers.get('host', '')):
      return error(
        421, f'Host: {headers.get("host", "")[:60]} is no name of this server: use its address, or --allow_host'
      )
    if scope['method'] not in ('GET', 'HEAD') and not _same_site(headers):
      return error(403, 'requests from the pages of other sites are not accepted')
    if self._token is not None and not self._has_token(headers):
      given = parse_qs(scope['query_string'].decode('latin-1')).get('token', [''])[0]
      if not self._is_token(given):
        return error(401, 'a token is needed: open the address with ?token=, or send Authorization: Bearer TOKEN')
      if scope['method'] == 'GET' and scope['path'] == '/':
        response = RedirectResponse('/', 303)
        response.set_cookie(COOKIE, self._token, httponly=True, samesite='strict')
        return response
      return error(401, 'in this request, the token must be sent as Authorization: Bearer TOKEN')
    length = headers.get('content-length', '0')
    if length.isdecimal() and int(length) > self._max_bytes:
      return too_large(int(length), self._max_bytes)
    return None

  def _is_ours(self, host: str) -> bool:
    try:
      name = (urlsplit(f'//{host}').hostname or '').lower()
    except ValueError:
      return False
    if name in self._hosts:
      return True
    try:
      address = ipaddress.ip_address(name)
    except ValueError:
      return False
    return address.is_loopback or not self._loopback

  def _has_token(self, headers: Headers) -> bool:
    scheme, _, value = headers.get('authorization', '').partition(' ')
    if scheme.lower() == 'bearer' and self._is_token(value.strip()):
      return True
    try:
      cookie = SimpleCookie(headers.get('cookie', '')).get(COOKIE)
    except CookieError:
      return False
    return cookie is not None and self._is_token(cookie.value)

  def _is_token(self, value: str) -> bool:
    return self._token is not None and hmac.compare_digest(value.encode(), self._token.encode())


class _Limited:
  """A body of at most so many bytes; reading more raises RequestError with 413."""

  def __init__(self, receive: Receive, max_bytes: int):
    self._receive, self._max_bytes, self._count = receive, max_bytes, 0

  async def __call__(self) -> Message:
    message = await self._receive()
    self._count += len(message.get('body', b''))
    if self._count > self._max_bytes:
      raise RequestError(413, _too_large(self._count, self._max_bytes))
    return message


def error(status: int, message: str) -> JSONResponse:
  """Returns the answer to a request that failed."""
  headers = {'www-authenticate': 'Bearer'} if status == 401 else {}
  return JSONResponse({'error': message}, status, headers)


def too_large(length: int, max_bytes: int) -> JSONResponse:
  """Returns the answer to a request whose body has `length` bytes."""
  return error(413, _too_large(length, max_bytes))


def _too_large(length: int, max_bytes: int) -> str:
  return f'the upload has {length / 2**20:.1f} MiB, more than the limit of {max_bytes / 2**20:g} MiB: make it smaller'


def _same_site(headers: Headers) -> bool:
  """Returns whether a request comes from the page itself, or from a program that is no browser."""
  if headers.get('sec-fetch-site', 'none') not in ('none', 'same-origin'):
    return False
  origin = headers.get('origin')
  return origin is None or urlsplit(origin).netloc.lower() == headers.get('host', '').lower()


async def _discard(receive: Receive) -> None:
  """Reads the body: many clients send all of it before they read the answer."""
  count = 0
  while count < _DISCARDED:
    message = await receive()
    count += len(message.get('body', b''))
    if message['type'] == 'http.disconnect' or not message.get('more_body', False):
      return
