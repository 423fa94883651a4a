"""A stand-in for the Hugging Face Hub: the parts of its HTTP API that uploading and downloading a model need.

It keeps everything in memory. Files are sent within the commit ('regular'), as the real Hub does with small ones.
"""

import base64
import contextlib
import hashlib
import http.server
import json
import re
import threading
import urllib.parse

COMMIT = 'c' * 40
TOKEN = 'hf_of_the_test'


class Hub:
  """The models {name: {path: bytes}}, which of them are private, and the messages of the commits."""

  def __init__(self):
    self.models: dict[str, dict[str, bytes]] = {}
    self.private: set[str] = set()
    self.commits: list[str] = []


class _Handler(http.server.BaseHTTPRequestHandler):
  protocol_version = 'HTTP/1.1'
  hub: Hub

  def log_message(self, *args):
    pass

  def do_HEAD(self):
    self.do_GET()

  def do_GET(self):
    path = urllib.parse.unquote(self.path.partition('?')[0])
    if match := re.fullmatch(r'/api/models/([^/]+/[^/]+)(?:/(revision|tree)/[^/]+)?', path):
      name, kind = match.groups()
      if name not in self.hub.models:
        return self.answer({'error': 'Repository not found'}, 404, {'X-Error-Code': 'RepoNotFound'})
      files = self.hub.models[name].items()
      if kind == 'tree':
        return self.answer(
          [{'type': 'file', 'path': p, 'size': len(c), 'oid': hashlib.sha1(c).hexdigest()} for p, c in files]
        )
      siblings = [{'rfilename': path} for path, _ in files]
      return self.answer({'id': name, 'modelId': name, 'sha': COMMIT, 'siblings': siblings, 'private': False})
    if match := re.fullmatch(r'/([^/]+/[^/]+)/resolve/[^/]+/(.+)', path):
      name, file = match.groups()
      content = self.hub.models.get(name, {}).get(file)
      if content is None:
        return self.answer({'error': 'Entry not found'}, 404, {'X-Error-Code': 'EntryNotFound'})
      return self.answer(content, 200, {'X-Repo-Commit': COMMIT, 'ETag': f'"{hashlib.sha1(content).hexdigest()}"'})
    return self.answer({'error': f'no {path}'}, 404)

  def do_POST(self):
    path = self.path.partition('?')[0]
    body = self.rfile.read(int(self.headers.get('Content-Length', 0)))
    if self.headers.get('Authorization') != f'Bearer {TOKEN}':
      return self.answer({'error': 'Invalid credentials in Authorization header'}, 401)
    if path == '/api/validate-yaml':
      return self.answer({'errors': [], 'warnings': []})
    if path == '/api/repos/create':
      values = json.loads(body)
      name = f'{values["organization"]}/{values["name"]}'
      if values['organization'] != 'somebody':
        return self.answer({'error': "You don't have the rights to create a model under this namespace"}, 403)
      url = f'http://{self.headers["Host"]}/{name}'
      if name in self.hub.models:
        return self.answer({'error': 'You already created this model repo', 'url': url}, 409)
      self.hub.models[name] = {}
      if values.get('private') or values.get('visibility') == 'private':
        self.hub.private.add(name)
      return self.answer({'url': url, 'name': name})
    if match := re.fullmatch(r'/api/models/([^/]+/[^/]+)/(preupload|commit)/main', path):
      name, kind = match.groups()
      if kind == 'preupload':
        files = json.loads(body)['files']
        return self.answer(
          {'files': [{'path': one['path'], 'uploadMode': 'regular', 'shouldIgnore': False} for one in files]}
        )
      for line in body.splitlines():
        item = json.loads(line)
        if item['key'] == 'header':
          self.hub.commits.append(item['value']['summary'])
        else:
          assert item['key'] == 'file', item['key']
          self.hub.models[name][item['value']['path']] = base64.b64decode(item['value']['content'])
      address = f'http://{self.headers["Host"]}/{name}/commit/{COMMIT}'
      return self.answer({'success': True, 'commitUrl': address, 'commitOid': COMMIT})
    return self.answer({'error': f'no {path}'}, 404)

  def answer(self, content, status=200, headers=None):
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    self.send_response(status)
    for name, value in (headers or {}).items():
      self.send_header(name, value)
    self.send_header('Content-Length', str(len(data)))
    self.end_headers()
    if self.command != 'HEAD':
      self.wfile.write(data)


@contextlib.contextmanager
def running():
  """Yields (hub, its address) while it answers."""
  hub = Hub()
  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), type('Handler', (_Handler,), {'hub': hub}))
  thread = threading.Thread(target=server.serve_forever, daemon=True)
  thread.start()
  try:
    yield hub, f'http://127.0.0.1:{server.server_port}'
  finally:
    server.shutdown()
    server.server_close()
    thread.join()
