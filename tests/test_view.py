"""The HTTP API of python -m lrm_jax.view: jobs, files and views; what is refused, and how that is said."""

import http.client
import io
import json
import socket
import threading
import zipfile
import zlib

import numpy as np
from PIL import Image
import pytest
import trimesh

pytest.importorskip('starlette', reason="Starlette is not installed: pip install '.[view]'")
import uvicorn

from conftest import encode_png
from lrm_jax.client import Client, ServerError
from lrm_jax.geometry import cameras
from lrm_jax.geometry.volume import Pixels
from lrm_jax.view import __main__ as command
from lrm_jax.view import frames, guard, jobs, uploads
from lrm_jax.view.server import Server
from view_server import bomb

MAX_BYTES, MAX_PIXELS = 2**20, 10**7
NOISE = encode_png(np.random.default_rng(0).integers(0, 255, (99, 99, 3), np.uint8))
FAST = dict(resolution=16, threshold=0.01, size=64, num_frames=2)


def block(color=(200, 30, 40)):
  pixels = np.zeros((40, 60, 4), np.uint8)
  pixels[10:30, 20:40] = [*color, 255]
  return pixels


@pytest.fixture(scope='module')
def address(run_directory, tmp_path_factory):
  """(host and port, directory of the results) of a server with an untrained model."""
  out = tmp_path_factory.mktemp('view')
  bound = command.listen('127.0.0.1', 0)
  server = Server(out, [str(run_directory)], max_bytes=MAX_BYTES, max_pixels=MAX_PIXELS, warm_up=False)
  app = guard.Guard(server.app, loopback=True, hosts=[], token=None, max_bytes=MAX_BYTES)
  running = uvicorn.Server(uvicorn.Config(app, log_level='warning'))
  thread = threading.Thread(target=running.run, kwargs={'sockets': [bound]})
  thread.start()
  yield f'127.0.0.1:{bound.getsockname()[1]}', out
  running.should_exit = True
  thread.join()
  bound.close()


@pytest.fixture(scope='module')
def client(address):
  return Client(f'http://{address[0]}')


@pytest.fixture(scope='module')
def image(tmp_path_factory):
  path = tmp_path_factory.mktemp('images') / 'red block.png'
  Image.fromarray(block()).save(path)
  return path


@pytest.fixture(scope='module')
def finished(client, image):
  """(job, states that were seen) of a reconstruction with all files."""
  states = []
  return client.reconstruct(image, states.append, **FAST), states


def ask(address, method, path, body=None, **headers):
  """Returns (status, headers, body) of a request whose path is sent as it is."""
  connection = http.client.HTTPConnection(address[0], timeout=60)
  connection.request(method, path, body, {name.replace('_', '-'): value for name, value in headers.items()})
  answer = connection.getresponse()
  result = answer.status, answer.headers, answer.read()
  connection.close()
  return result


def test_job_goes_through_the_phases_and_has_all_files(client, finished, tmp_path):
  job, states = finished
  assert job['status'] == 'done' and job['name'] == 'red_block' and job['error'] is None
  assert list(job['seconds']) == list(jobs.PHASES) and states[-1]['id'] == job['id']
  assert set(job['files']) == set(client.about()['files'])
  paths = {kind: client.download(job, kind, tmp_path / file['name']) for kind, file in job['files'].items()}
  for kind in ('glb', 'ply', 'stl'):
    assert len(trimesh.load_mesh(paths[kind], process=False).faces) == job['report']['faces']
  assert zipfile.ZipFile(paths['obj']).namelist() == ['red_block.obj']
  assert np.load(paths['planes'])['planes'].shape == (3, 8, 8, 6)
  assert Image.open(io.BytesIO(paths['input'].read_bytes())).size == (16, 16)
  assert paths['video'].read_bytes()[4:8] == paths['depth'].read_bytes()[4:8] == b'ftyp'
  assert [one['id'] for one in client.jobs() if one['status'] == 'done'] == [job['id']]  # Others may have failed jobs.


def test_views_are_images_of_every_kind_from_every_side(client, finished):
  job, _ = finished
  views = [
    client.view(job, azimuth=azimuth, kind=kind, size=64, format='png') for azimuth in (0, 90) for kind in frames.KINDS
  ]
  assert len(set(views)) == len(views)
  assert all(Image.open(io.BytesIO(view)).size == (64, 64) for view in views)
  assert client.view(job, size=64)[:3] == b'\xff\xd8\xff'


@pytest.mark.parametrize(
  'camera, status, sentence',
  [
    (dict(size=100), 400, 'size=100 is not possible'),
    (dict(kind='heat'), 400, 'kind=heat is unknown'),
    (dict(azimuth='nan'), 400, 'must be finite'),
    (dict(azimuth='east'), 400, 'azimuth=east must be a number'),
    (dict(format='gif'), 400, 'format=gif is unknown'),
  ],
)
def test_view_that_is_not_possible(client, finished, camera, status, sentence):
  with pytest.raises(ServerError, match=sentence) as info:
    client.view(finished[0], **camera)
  assert info.value.status == status


def test_normals_are_those_of_the_surface():
  """A ball of radius 0.5: the normal is the point divided by the radius, at its inner pixels."""
  size, pose, intrinsics = 96, cameras.look_at([1.2, -1.5, 0.6]), cameras.intrinsics_from_fov(50)
  centre = (np.arange(size) + 0.5) / size
  x, y = np.meshgrid((centre - 0.5) / intrinsics[0], (centre - 0.5) / intrinsics[1])
  directions = np.stack([x, -y, -np.ones_like(x)], axis=-1) @ pose[:3, :3].T
  directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
  along = -directions @ pose[:3, 3]
  under = along**2 - (pose[:3, 3] @ pose[:3, 3] - 0.25)
  far = np.where(under > 0, along - np.sqrt(np.maximum(under, 0)), 0)
  normal = (pose[:3, 3] + directions * far[..., None]) / 0.5
  found = frames.normals(Pixels(np.zeros((size, size, 3)), far, (under > 0).astype(float)), pose, intrinsics)
  inner = under > 0.1
  assert inner.sum() > 500
  np.testing.assert_allclose(2 * found[inner] - 1, normal[inner], atol=0.02)
  np.testing.assert_array_equal(found[under < -0.1], 1)


@pytest.mark.parametrize(
  'name, data, status, sentence',
  [
    ('photo.png', b'I am text\n' * 100, 415, 'photo.png is not an image: give a PNG, JPEG'),
    ('photo.png', b'', 415, 'photo.png is not an image'),
    ('drawing.svg', b'<svg xmlns="http://www.w3.org/2000/svg"/>', 415, 'drawing.svg is not an image'),
    ('page.eps', b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n', 415, 'page.eps is not an image'),
    ('huge.png', bomb(), 413, 'huge.png has 30000 x 30000 pixels, more than the limit of 10,000,000: make it smaller'),
    ('half.png', NOISE[: len(NOISE) // 2], 422, 'half.png is damaged|half.png is not a readable image'),
    ('big.png', bytes(MAX_BYTES + 1), 413, 'the upload has 1.0 MiB, more than the limit of 1 MiB'),
    ('white.png', encode_png(np.full((50, 50, 3), 255, np.uint8)), 422, 'no object was found'),
    ('empty.png', encode_png(np.zeros((50, 50, 4), np.uint8)), 422, 'no object was found'),
  ],
)  # fmt: skip
def test_upload_that_is_refused(client, address, tmp_path, name, data, status, sentence):
  (tmp_path / name).write_bytes(data)
  with pytest.raises(ServerError, match=sentence) as info:
    client.submit(tmp_path / name)
  assert info.value.status == status and '\n' not in str(info.value)
  assert 'Traceback' not in str(info.value) and str(address[1]) not in str(info.value)


@pytest.mark.parametrize(
  'options, sentence',
  [
    (dict(resolution=4096), 'resolution=4096 must be in 16 to 256'),
    (dict(faces='many'), 'faces=many must be a whole number'),
    (dict(texture=7), 'a texture of 7 pixels'),
    (dict(keep='best'), "keep=best: use 'largest'"),
    (dict(video='maybe'), 'video=maybe: use true or false'),
    (dict(threshold=-1), 'threshold=-1 must be'),
    (dict(model='/etc'), 'model=/etc is not on the menu'),
    (dict(colour='red'), "the field 'colour' is unknown"),
  ],
)
def test_option_that_is_refused(client, image, options, sentence):
  with pytest.raises(ServerError, match=sentence) as info:
    client.submit(image, **options)
  assert info.value.status == 400


def test_job_that_has_no_surface_fails_with_a_sentence(client, image, address):
  with pytest.raises(ServerError, match='no surface: the greatest density found is'):
    client.reconstruct(image, **FAST | {'threshold': 1e9})
  [job] = [job for job in client.jobs() if job['status'] == 'failed']
  assert not job['files'] and not job['viewable'] and not (address[1] / job['id']).exists()
  with pytest.raises(ServerError, match='has no planes') as info:
    client.view(job)
  assert info.value.status == 409


def send(address, path, **files):
  """Posts a form of files; returns (status, JSON)."""
  body = b''.join(
    f'--x\r\nContent-Disposition: form-data; name="{name}"; filename="a.png"\r\n\r\n'.encode() + data + b'\r\n'
    if isinstance(data, bytes)
    else f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{data}\r\n'.encode()
    for name, data in files.items()
  )
  status, _, answer = ask(address, 'POST', path, body + b'--x--\r\n', Content_Type='multipart/form-data; boundary=x')
  return status, json.loads(answer)


def test_mask_is_found_shown_and_replaced(address):
  """The mask is the transparency; a box replaces it by what is inside, and a given mask is used as it is."""
  photo = np.full((60, 90, 3), 255, np.uint8)
  photo[20:40, 10:30], photo[20:40, 60:80] = [200, 30, 40], [30, 60, 200]
  status, upload = send(address, '/v1/images', image=encode_png(photo))
  assert status == 201 and upload['found'] and (upload['width'], upload['height']) == (90, 60)

  def mask():
    return np.asarray(Image.open(io.BytesIO(ask(address, 'GET', upload['mask'])[2]))) > 127

  assert mask()[30, 20] and mask()[30, 70] and not mask()[5, 5]
  path = f'/v1/images/{upload["id"]}'
  assert ask(address, 'POST', f'{path}/mask', json.dumps({'box': [0.6, 0.2, 0.95, 0.8]}))[0] == 200
  assert not mask()[30, 20] and mask()[30, 70]
  status, blue = send(address, f'{path}/preview')
  assert status == 200 and blue['image'].startswith('data:image/png;base64,')
  hand = np.zeros((60, 90), np.uint8)
  hand[20:40, 10:30] = 255
  assert send(address, f'{path}/preview', mask=encode_png(hand))[1]['image'] != blue['image']
  assert send(address, f'{path}/preview', foreground_ratio='0.9')[1]['image'] != blue['image']
  assert send(address, f'{path}/preview', mask='none')[0] == 200
  for box in ([0, 0, 2, 1], [0.5, 0, 0.4, 1], 'all', [1]):
    assert ask(address, 'POST', f'{path}/mask', json.dumps({'box': box}))[0] == 400
  assert send(address, f'{path}/preview', foreground_ratio='3')[0] == 400
  assert send(address, f'{path}/preview', mask='all') == (400, {'error': 'mask=all: use auto, none or an image file'})
  assert send(address, f'{path}/preview', mask=encode_png(0 * hand))[0] == 422
  assert send(address, '/v1/images/0123456789abcdef/preview')[0] == 404


def test_mask_may_be_transparency_or_brightness():
  hand = np.zeros((8, 12), np.uint8)
  hand[2:4] = 255
  layer = np.dstack([np.full((8, 12, 3), 90, np.uint8), hand])
  for pixels in (hand, np.dstack([hand] * 3), layer):
    np.testing.assert_array_equal(uploads.read_mask(encode_png(pixels), 1000), hand / 255)


@pytest.mark.parametrize(
  'name, stem',
  [('../../etc/passwd', 'passwd'), ('C:\\a\\my chair.png', 'my_chair'), ('..', 'image'), ('', 'image'),
   ('a' * 99, 'a' * 48), ('стул.png', 'image'), ('.png', 'png')],
)  # fmt: skip
def test_names_of_files_cannot_leave_the_directory(name, stem):
  assert uploads.stem(name) == stem


@pytest.mark.parametrize(
  'path',
  [
    '/../pyproject.toml',
    '/static/../server.py',
    '/static/..%2fserver.py',
    '/static/%2e%2e/server.py',
    '/static//etc/passwd',
    '/v1/jobs/../files/glb',
    '/v1/jobs/..%2f..%2f..%2fetc%2fpasswd',
    '/v1/jobs/{job}/files/job.json',
    '/v1/jobs/{job}/files/..%2fjob.json',
    '/v1/jobs/{job}/files/%2fetc%2fpasswd',
    '/v1/images/..%2f{job}/red_block.png',
    '/v1/images/{job}/image.png',
  ],
)
def test_nothing_else_can_be_read(address, finished, path):
  status, headers, body = ask(address, 'GET', path.format(job=finished[0]['id']))
  assert status == 404 and headers['content-type'] == 'application/json'
  assert set(json.loads(body)) == {'error'}


def test_other_sites_and_other_names_are_refused(address):
  """DNS rebinding gives this server a foreign name; a page of another site may send a form without asking."""
  host = address[0]
  for name in ('evil.example', f'evil.example:{host.partition(":")[2]}', '10.0.0.1', '', '127.0.0.1.evil.example'):
    assert ask(address, 'GET', '/v1', Host=name)[0] == 421
  for name in (host, 'localhost:80', '[::1]:1', 'LOCALHOST'):
    assert ask(address, 'GET', '/v1', Host=name)[0] == 200
  for headers in ({'Origin': 'http://evil.example'}, {'Origin': 'null'}, {'Sec-Fetch-Site': 'cross-site'}):
    assert ask(address, 'POST', '/v1/jobs', b'', **headers)[0] == 403
  status, headers, _ = ask(address, 'GET', '/v1', Origin='http://evil.example')
  assert status == 200 and not any(name.startswith('access-control') for name in map(str.lower, headers))
  assert (
    headers['cross-origin-resource-policy'] == 'same-origin'
    and "default-src 'self'" in headers['content-security-policy']
  )
  assert ask(address, 'OPTIONS', '/v1/jobs', Origin=f'http://{host}')[0] == 405


@pytest.mark.parametrize(
  'method, path, status',
  [('GET', '/v2', 404), ('PUT', '/v1/jobs', 405), ('POST', '/v1/jobs', 415), ('GET', '/v1/jobs?limit=x', 400),
   ('POST', '/v1/jobs/x/cancel', 404), ('DELETE', '/v1/jobs/x', 404), ('GET', '/v1/jobs/x/view', 404)],
)  # fmt: skip
def test_errors_are_json_with_one_sentence(address, method, path, status):
  found, _, body = ask(address, method, path)
  message = json.loads(body)['error']
  assert found == status and message and '\n' not in message


def test_body_without_a_length_is_limited_too(address):
  connection = http.client.HTTPConnection(address[0], timeout=60)
  head = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
  parts = [head] + [bytes(2**16)] * 20
  connection.request(
    'POST', '/v1/images', iter(parts), {'Content-Type': 'multipart/form-data; boundary=x'}, encode_chunked=True
  )
  answer = connection.getresponse()
  assert answer.status == 413 and 'more than the limit' in json.loads(answer.read())['error']
  connection.close()


def test_token_is_needed_and_becomes_a_cookie(tmp_path):
  server = Server(tmp_path, warm_up=False)
  bound = command.listen('127.0.0.1', 0)
  address = (f'127.0.0.1:{bound.getsockname()[1]}',)
  app = guard.Guard(server.app, loopback=False, hosts=['objects.example'], token='secret', max_bytes=100)
  running = uvicorn.Server(uvicorn.Config(app, log_level='warning'))
  thread = threading.Thread(target=running.run, kwargs={'sockets': [bound]})
  thread.start()
  try:
    for headers in ({}, {'Authorization': 'Bearer wrong'}, {'Cookie': f'{guard.COOKIE}=wrong'}, {'Cookie': 'a;;=b'}):
      assert ask(address, 'GET', '/v1', **headers)[0] == 401
    assert ask(address, 'GET', '/?token=wrong')[0] == ask(address, 'GET', '/static/app.js')[0] == 401
    assert ask(address, 'GET', '/v1', Authorization='Bearer secret')[0] == 200
    status, headers, _ = ask(address, 'GET', '/?token=secret')
    cookie = headers['set-cookie']
    assert (
      status == 303
      and headers['location'] == '/'
      and 'httponly' in cookie.lower()
      and 'samesite=strict' in cookie.lower()
    )
    assert ask(address, 'GET', '/v1', Cookie=cookie.partition(';')[0])[0] == 200
    for host, status in (('objects.example', 200), ('192.168.1.5:8321', 200), ('evil.example', 421)):
      assert ask(address, 'GET', '/v1', Authorization='Bearer secret', Host=host)[0] == status
  finally:
    running.should_exit = True
    thread.join()
    bound.close()


def test_client_says_that_there_is_no_server():
  with socket.create_server(('127.0.0.1', 0)) as free:
    port = free.getsockname()[1]
  with pytest.raises(ServerError, match='does not answer'):
    Client(f'http://127.0.0.1:{port}').about()


def test_bomb_is_an_image_that_is_small_as_a_file():
  assert len(bomb()) < 200_000 and zlib.crc32(bomb()) and Image.MAX_IMAGE_PIXELS
