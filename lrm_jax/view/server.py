"""The HTTP API, version 1, and the page that uses it; docs/view.md describes every endpoint.

Images are prepared by one thread and views are rendered by another, so that neither waits for the job that runs.
"""

import asyncio
import base64
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
import contextlib
import errno
import functools
from http import HTTPStatus
import json
import logging
from pathlib import Path
import shutil
import tempfile
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

import lrm_jax
from lrm_jax.errors import InputError, must_be_mended, one_line
from lrm_jax.reconstruction import segmenters
from lrm_jax.view import frames, options, uploads, work
from lrm_jax.view.guard import error
from lrm_jax.view.jobs import ENDED, PHASES, Job, Jobs
from lrm_jax.view.menu import Menu
from lrm_jax.view.request_error import RequestError
from lrm_jax.view.uploads import Mask, Upload, Uploads
from lrm_jax.view.work import Workshop

_LOGGER = logging.getLogger(__name__)
STATIC = Path(__file__).parent / 'static'
_UPLOADS = '.uploads.'  # begins the name of the directory of images that wait
_LISTED = 200  # jobs, at most
_FIELD = 2**16  # bytes of a text field of a form


class Server:
  """The application `app` (ASGI) and what it is made of.

  The results are written to `directory`, which no other server may use. Raises InputError if a checkpoint is unknown,
  or if the segmenter cannot be used (reconstruction/segmenters.py).
  """

  def __init__(
    self,
    directory: Path,
    checkpoints: Sequence[str] = (),
    *,
    max_bytes: int = 32 * 2**20,
    max_pixels: int = 64 * 10**6,
    warm_up: bool = True,
    segmenter: segmenters.SegmenterLike | None = None,
  ):
    self._max_bytes, self._max_pixels, self._warm_up = max_bytes, max_pixels, warm_up
    self.menu = Menu(checkpoints)
    self._segmenter = segmenters.load(segmenter)
    directory.mkdir(parents=True, exist_ok=True)
    for leftover in directory.glob(f'{_UPLOADS}*'):  # Of a server that was killed.
      shutil.rmtree(leftover, ignore_errors=True)
    self._temporary = tempfile.TemporaryDirectory(prefix=_UPLOADS, dir=directory)
    self.uploads = Uploads(Path(self._temporary.name), max_pixels, self._segmenter)
    self.workshop = Workshop(self.menu, self.uploads)
    self.jobs = Jobs(directory, self.workshop.reconstruct)
    self._imaging, self._rendering = ThreadPoolExecutor(1, 'images'), ThreadPoolExecutor(1, 'views')
    one, many = '/v1/jobs/{job}', '/v1/jobs'
    self.app = Starlette(
      routes=[
        Route('/', self._page),
        Route('/v1', self._about),
        Route('/v1/images', self._add_image, methods=['POST']),
        Route('/v1/images/{image}/{file:str}.png', self._image_file),
        Route('/v1/images/{image}/mask', self._segment, methods=['POST']),
        Route('/v1/images/{image}/preview', self._preview, methods=['POST']),
        Route(many, self._add_job, methods=['POST']),
        Route(many, self._list_jobs),
        Route(one, self._get_job),
        Route(one, self._delete_job, methods=['DELETE']),
        Route(f'{one}/cancel', self._cancel_job, methods=['POST']),
        Route(f'{one}/files/{{kind}}', self._job_file),
        Route(f'{one}/view', self._view),
        Mount('/static', StaticFiles(directory=STATIC)),
      ],
      exception_handlers={InputError: _refused, HTTPException: _http_error, OSError: _os_error, Exception: _failed},
      lifespan=self._lifespan,
    )

  @contextlib.asynccontextmanager
  async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
    self.jobs.start(self.workshop.warm_up if self._warm_up else self.workshop.warm.set)
    try:
      yield
    finally:
      await asyncio.to_thread(self.close)

  def close(self) -> None:
    """Cancels all jobs and removes the uploads."""
    self.jobs.close()
    self._imaging.shutdown(cancel_futures=True)
    self._rendering.shutdown(cancel_futures=True)
    self._temporary.cleanup()

  async def _page(self, request: Request) -> Response:
    return FileResponse(STATIC / 'index.html', headers={'cache-control': 'no-cache'})

  async def _about(self, request: Request) -> Response:
    return JSONResponse(
      {
        'api': 1,
        'lrm_jax': lrm_jax.__version__,
        'ready': self.workshop.warm.is_set(),
        'models': self.menu.describe(),
        'segmenter': self._segmenter.name,
        'phases': PHASES,
        'files': {kind: media for kind, (_, media) in work.KINDS.items()},
        'views': {'kinds': frames.KINDS, 'sizes': frames.SIZES},
        'limits': {'upload_bytes': self._max_bytes, 'pixels': self._max_pixels},
        'examples': [f'/static/examples/{path.name}' for path in sorted((STATIC / 'examples').glob('*.png'))],
      }
    )

  async def _add_image(self, request: Request) -> Response:
    async with self._form(request) as form:
      upload = await self._uploaded(form)
    return JSONResponse(_describe_image(upload), 201, {'location': f'/v1/images/{upload.id}'})

  async def _image_file(self, request: Request) -> Response:
    upload, name = self.uploads.get(request.path_params['image']), request.path_params['file']
    if name not in ('image', 'mask'):
      raise RequestError(404, f'an image has no file {name[:20]!r}: use image.png or mask.png')
    return FileResponse(upload.folder / f'{name}.png', media_type='image/png')

  async def _segment(self, request: Request) -> Response:
    try:
      box = [float(value) for value in json.loads(await request.body())['box']]
      if len(box) != 4:
        raise ValueError
    except (ValueError, KeyError, TypeError) as problem:
      raise RequestError(400, 'the body must be {"box": [left, top, right, bottom]}, in 0..1 of the image') from problem
    return JSONResponse(
      _describe_image(await self._in(self._imaging, self.uploads.segment, request.path_params['image'], box))
    )

  async def _preview(self, request: Request) -> Response:
    upload = self.uploads.get(request.path_params['image'])
    async with self._form(request) as form:
      mask, model = await self._mask(form), self._model(form)
      chosen = options.parse(_texts(form, 'mask', 'model'))

    def prepare():
      prepared = self.uploads.prepare(upload, self.menu.get(model), mask, chosen.foreground_ratio)
      encoded = base64.b64encode(frames.encode(prepared.image, 'png')).decode()
      return {'image': f'data:image/png;base64,{encoded}', 'notes': prepared.notes}

    return JSONResponse(await self._in(self._imaging, prepare))

  async def _add_job(self, request: Request) -> Response:
    async with self._form(request) as form:
      mask, model = await self._mask(form), self._model(form)
      chosen = options.parse(_texts(form, 'image', 'image_id', 'mask', 'model'))
      identifier = form.get('image_id')
      upload = self.uploads.get(identifier) if isinstance(identifier, str) else await self._uploaded(form)
    if isinstance(mask, str) and mask == 'auto' and not upload.found:
      raise RequestError(422, 'no object was found in the image: send a mask, or mask=none to use the whole image')
    address = request.client.host if request.client else ''
    client = f'{address} {request.headers.get("x-client", "")[:64]}'
    job = self.jobs.submit(upload, mask, model, chosen, client)
    return JSONResponse(self._describe(job), 202, {'location': f'/v1/jobs/{job.id}'})

  async def _list_jobs(self, request: Request) -> Response:
    count = _number(request, 'limit', 50, int)
    return JSONResponse({'jobs': [self._describe(job) for job in self.jobs.latest(max(0, min(count, _LISTED)))]})

  async def _get_job(self, request: Request) -> Response:
    return JSONResponse(self._describe(self._job(request)))

  async def _cancel_job(self, request: Request) -> Response:
    return JSONResponse(self._describe(self.jobs.cancel(request.path_params['job'])), 202)

  async def _delete_job(self, request: Request) -> Response:
    await asyncio.to_thread(self.jobs.delete, request.path_params['job'])
    self.workshop.forget(request.path_params['job'])
    return Response(status_code=204)

  async def _job_file(self, request: Request) -> Response:
    job, kind = self._job(request), request.path_params['kind']
    path = job.path(kind)
    how = 'inline' if request.query_params.get('inline') else 'attachment'
    return FileResponse(path, filename=path.name, media_type=work.KINDS[kind][1], content_disposition_type=how)

  async def _view(self, request: Request) -> Response:
    job = self._job(request)
    if not job.viewable:
      raise RequestError(409, f'job {job.id} has no planes ({job.status}): wait for the phase after "planes"')
    values = {name: _number(request, name, value, float) for name, value in _CAMERA.items()}
    size, kind = _number(request, 'size', 128, int), request.query_params.get('kind', 'color')
    file = request.query_params.get('format', 'jpeg')
    if file not in ('jpeg', 'png'):
      raise RequestError(400, f'format={file[:20]} is unknown: use jpeg or png')

    def render():
      return frames.encode(frames.render(self.workshop.reconstruction(job), size=size, kind=kind, **values), file)

    return Response(await self._in(self._rendering, render), media_type=f'image/{file}')

  def _job(self, request: Request) -> Job:
    return self.jobs.get(request.path_params['job'])

  def _describe(self, job: Job) -> dict:
    """Returns what clients see of a job."""
    files = {
      kind: {'url': f'/v1/jobs/{job.id}/files/{kind}', 'name': name, 'media_type': work.KINDS[kind][1]}
      for kind, name in list(job.files.items())
      if kind in work.KINDS
    }
    state = {
      'status': job.status,
      'phase': job.phase,
      'progress': round(job.progress, 3),
      'ahead': self.jobs.ahead(job),
      'error': job.error,
      'viewable': job.viewable,
      'ended': job.status in ENDED,
    }
    return {**job.record(), **state, 'files': files}

  @contextlib.asynccontextmanager
  async def _form(self, request: Request) -> AsyncIterator[FormData]:
    if not request.headers.get('content-type', '').startswith('multipart/form-data'):
      raise RequestError(415, 'the body must be a form (multipart/form-data): docs/view.md has examples')
    async with request.form(max_files=2, max_fields=20, max_part_size=_FIELD) as form:
      yield form

  async def _uploaded(self, form: FormData) -> Upload:
    file = form.get('image')
    if not isinstance(file, UploadFile):
      raise RequestError(400, 'the form has no file "image": add one')
    return await self._in(self._imaging, self.uploads.add, await file.read(), file.filename or 'image')

  async def _mask(self, form: FormData) -> Mask:
    mask = form.get('mask', 'auto')
    if isinstance(mask, UploadFile):
      return await self._in(self._imaging, uploads.read_mask, await mask.read(), self._max_pixels)
    if mask not in ('auto', 'none'):
      raise RequestError(400, f'mask={mask[:20]}: use auto, none or an image file')
    return 'auto' if mask == 'auto' else 'none'

  def _model(self, form: FormData) -> str:
    model = form.get('model') or self.menu.names[0]
    if not isinstance(model, str):
      raise RequestError(400, 'the field "model" must be text')
    self.menu.check(model)
    return model

  async def _in(self, pool: ThreadPoolExecutor, call: Callable, *arguments) -> Any:
    return await asyncio.get_running_loop().run_in_executor(pool, functools.partial(call, *arguments))


_CAMERA = {'azimuth': 0.0, 'elevation': 0.0, 'distance': 1.0}


def _describe_image(upload: Upload) -> dict:
  place = f'/v1/images/{upload.id}'
  return {
    'id': upload.id,
    'name': upload.name,
    'width': upload.width,
    'height': upload.height,
    'found': upload.found,
    'notes': upload.notes,
    'image': f'{place}/image.png',
    'mask': f'{place}/mask.png',
  }


def _texts(form: FormData, *others: str) -> dict[str, str]:
  """Returns the text fields of a form without `others`; raises RequestError if another one is a file."""
  fields = {name: value for name, value in form.items() if name not in others}
  for name, value in fields.items():
    if not isinstance(value, str):
      raise RequestError(400, f'the field {name[:40]!r} must be text, not a file')
  return fields  # type: ignore[return-value]


def _number(request: Request, name: str, default, kind: type):
  text = request.query_params.get(name)
  if text is None:
    return default
  try:
    return kind(text)
  except ValueError:
    raise RequestError(400, f'{name}={text[:20]} must be a{" whole" if kind is int else ""} number') from None


def _refused(request: Request, problem: Exception) -> Response:
  return error(problem.status if isinstance(problem, RequestError) else 400, one_line(problem))


def _http_error(request: Request, problem: Exception) -> Response:
  assert isinstance(problem, HTTPException)
  detail = problem.detail
  if detail == HTTPStatus(problem.status_code).phrase:
    detail = f'{request.method} {request.url.path[:80]}: {detail.lower()}'
  return JSONResponse({'error': one_line(Exception(detail))}, problem.status_code, problem.headers)


def _os_error(request: Request, problem: Exception) -> Response:
  if not must_be_mended(problem):
    _LOGGER.error('%s %s failed', request.method, request.url.path, exc_info=problem)
    return _failed(request, problem)
  number = getattr(problem, 'errno', None)
  status = 507 if number in (errno.ENOSPC, errno.EDQUOT) else 500
  return error(
    status, f'the server cannot write its files ({getattr(problem, "strerror", problem)}): make room for them'
  )


def _failed(request: Request, problem: Exception) -> Response:
  # Starlette raises the exception again after this answer, so that uvicorn logs it.
  return error(500, f'the server failed ({type(problem).__name__}); its log has the details')
