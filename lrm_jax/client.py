"""A client of `python -m lrm_jax.view`, for scripts and add-ons; it needs only Python's standard library.

  client = Client('http://127.0.0.1:8321')
  job = client.reconstruct('photo.png', faces=20_000, progress=print)
  client.download(job, 'glb', 'photo.glb')

docs/view.md describes the HTTP API. Every request that the server refuses raises ServerError with its sentence.
"""

from collections.abc import Callable, Mapping
import json
import os
from pathlib import Path
import secrets
import time
from typing import Any
import urllib.error
import urllib.parse
import urllib.request

_SECONDS = 60.0  # without an answer
_BETWEEN = 0.2  # seconds between two questions for the state of a job


class ServerError(Exception):
  """The server refused a request, or a job failed. `status` is the HTTP status; 0 if there was no answer."""

  def __init__(self, status: int, message: str):
    super().__init__(message)
    self.status = status


class Client:
  """A server of objects; `token` is needed if it is bound to more than its own machine.

  `name` tells clients on one machine apart: the server takes their jobs in turn.
  """

  def __init__(self, url: str = 'http://127.0.0.1:8321', token: str | None = None, name: str | None = None):
    self._url = url.rstrip('/')
    self._headers = {'X-Client': name or secrets.token_hex(8)}
    if token:
      self._headers['Authorization'] = f'Bearer {token}'

  def about(self) -> dict:
    """Returns the models, limits and kinds of files and views that the server has."""
    return self._json('GET', '/v1')

  def submit(self, image: str | Path, *, mask: str | Path | None = None, **options) -> dict:
    """Sends an image file and returns the job, which waits in the queue.

    `mask` is a file whose opacity, or brightness if it is opaque, is the object; 'none' uses the whole image, and
    None lets the server find the object. The `options` are fields of the API: model, faces, texture, ...
    """
    fields: dict[str, Any] = {name: _text(value) for name, value in options.items() if value is not None}
    fields['image'] = Path(image)
    if mask is not None:
      fields['mask'] = mask if str(mask) in ('none', 'auto') else Path(mask)
    body, kind = _form(fields)
    return self._json('POST', '/v1/jobs', body, {'Content-Type': kind})

  def job(self, identifier: str) -> dict:
    """Returns the state of a job."""
    return self._json('GET', f'/v1/jobs/{urllib.parse.quote(identifier, safe="")}')

  def jobs(self, limit: int = 50) -> list[dict]:
    """Returns the last jobs, the newest first."""
    return self._json('GET', f'/v1/jobs?limit={limit}')['jobs']

  def wait(self, job: Mapping, progress: Callable[[dict], object] = lambda job: None, timeout: float = 3600) -> dict:
    """Waits until a job has ended, and returns it; `progress` is called with its state whenever that has changed.

    Raises ServerError if the job failed or was cancelled, and TimeoutError after `timeout` seconds.
    """
    last, end = None, time.monotonic() + timeout
    while (state := self.job(job['id'])) and not state['ended']:
      if (now := (state['status'], state['phase'], state['progress'], state['ahead'])) != last:
        progress(state)
      last = now
      if time.monotonic() > end:
        raise TimeoutError(f'job {job["id"]} has not ended after {timeout:g} s')
      time.sleep(_BETWEEN)
    progress(state)
    if state['status'] != 'done':
      raise ServerError(0, state['error'] or f'job {job["id"]} was {state["status"]}')
    return state

  def reconstruct(self, image: str | Path, progress: Callable[[dict], object] = lambda job: None, **options) -> dict:
    """Reconstructs an image and returns the finished job; arguments as in `submit` and `wait`."""
    return self.wait(self.submit(image, **options), progress)

  def cancel(self, identifier: str) -> dict:
    """Cancels a job that waits or runs, and returns it."""
    return self._json('POST', f'/v1/jobs/{urllib.parse.quote(identifier, safe="")}/cancel')

  def delete(self, identifier: str) -> None:
    """Removes an ended job and its files from the server."""
    self._request('DELETE', f'/v1/jobs/{urllib.parse.quote(identifier, safe="")}')

  def download(self, job: Mapping, kind: str, path: str | Path | None = None) -> Path:
    """Writes a file of a job, such as 'glb', to `path` (default: its own name in this folder) and returns the path."""
    files = job['files']
    if kind not in files:
      raise ServerError(404, f'job {job["id"]} has no file {kind!r}; its files: {", ".join(files) or "none"}')
    path = Path(path or files[kind]['name'])
    fresh = path.with_name(f'{path.name}.part')
    fresh.write_bytes(self._request('GET', files[kind]['url']))
    os.replace(fresh, path)
    return path

  def view(self, job: Mapping, **camera) -> bytes:
    """Returns a rendered view as an image file: azimuth, elevation, distance, size, kind and format as in the API."""
    return self._request('GET', f'/v1/jobs/{job["id"]}/view?{urllib.parse.urlencode(camera)}')

  def _json(self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> Any:
    return json.loads(self._request(method, path, body, headers))

  def _request(
    self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
  ) -> bytes:
    request = urllib.request.Request(
      self._url + path, data=body, method=method, headers={**self._headers, **(headers or {})}
    )
    try:
      with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
        return answer.read()
    except urllib.error.HTTPError as error:
      with error:
        text = error.read().decode(errors='replace')
      try:
        message = json.loads(text)['error']
      except (ValueError, KeyError, TypeError):
        message = text[:200] or error.reason
      raise ServerError(error.code, message) from error
    except urllib.error.URLError as error:
      raise ServerError(0, f'{self._url} does not answer ({error.reason}): start python -m lrm_jax.view') from error


def _text(value: Any) -> str:
  return str(value).lower() if isinstance(value, bool) else str(value)


def _form(fields: Mapping[str, str | Path]) -> tuple[bytes, str]:
  """Returns (body, content type) of a form; paths are files."""
  boundary, parts = secrets.token_hex(16), []
  for name, value in fields.items():
    head = f'Content-Disposition: form-data; name="{name}"'
    if isinstance(value, Path):
      file = urllib.parse.quote(value.name, safe=" ()[]{}!#$&'+,;=@^`~")
      head += f'; filename="{file}"\r\nContent-Type: application/octet-stream'
    content = value.read_bytes() if isinstance(value, Path) else value.encode()
    parts.append(f'--{boundary}\r\n{head}\r\n\r\n'.encode() + content + b'\r\n')
  return b''.join(parts) + f'--{boundary}--\r\n'.encode(), f'multipart/form-data; boundary={boundary}'
