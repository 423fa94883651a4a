"""The page of python -m lrm_jax.view in a real browser: Debian's Chromium, headless, with OpenGL in software.

LRM_JAX_SCREENSHOTS=DIR keeps screenshots at 1280 and 390 px.
"""

import base64
import io
import os
from pathlib import Path
import re
import shutil
import subprocess
import sys

import numpy as np
from PIL import Image
import pytest
import trimesh

from lrm_jax.evaluation import page as evaluation_page
from lrm_jax.reconstruction import glb
from view_server import bomb

playwright = pytest.importorskip('playwright.sync_api', reason="Playwright is not installed: pip install '.[test]'")
pytest.importorskip('starlette', reason="Starlette is not installed: pip install '.[view]'")

ROOT = Path(__file__).parents[1]
CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser')
EXAMPLES = ROOT / 'lrm_jax/view/static/examples'
ARGUMENTS = [
  '--no-sandbox', '--use-gl=angle', '--use-angle=swiftshader', '--enable-unsafe-swiftshader', '--no-first-run',
  '--disable-background-networking', '--disable-component-update', '--disable-sync',
]  # fmt: skip
SECONDS = 240_000  # milliseconds; the machine may be busy
pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(CHROMIUM is None, reason='Chromium is not installed: apt-get install chromium'),
]


@pytest.fixture(scope='module')
def server(tmp_path_factory):
  """The address of the command, started with the shipped model."""
  out = tmp_path_factory.mktemp('view')
  command = [sys.executable, '-m', 'lrm_jax.view', '--port=0', f'--out={out / "results"}', '--max_pixels=20000000']
  with (
    (out / 'log').open('w') as log,
    subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True) as process,
  ):
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith('Open http://127.0.0.1:'), (out / 'log').read_text()
    yield line.split()[1]
    process.terminate()
    process.wait(60)
  assert not (out / 'log').read_text()
  assert not list((out / 'results').glob('.uploads*'))


@pytest.fixture(scope='module')
def browser():
  with playwright.sync_playwright() as driver:
    running = driver.chromium.launch(executable_path=CHROMIUM, headless=True, args=ARGUMENTS)
    yield running
    running.close()


@pytest.fixture
def page(browser, server):
  """The page, which asks no other server and reports no error."""
  yield from open_page(browser, server)


def open_page(browser, server, width=1280, height=900):
  context = browser.new_context(viewport={'width': width, 'height': height}, accept_downloads=True)
  page = context.new_page()
  problems, addresses = [], []
  page.on('pageerror', lambda error: problems.append(str(error)))
  page.on('console', lambda message: problems.append(message.text) if 'Content Security' in message.text else None)
  page.on('request', lambda request: addresses.append(request.url))
  page.set_default_timeout(SECONDS)
  page.goto(server)
  page.wait_for_selector('#ready.ready')
  yield page
  assert not problems
  assert all(address.startswith((server, 'blob:', 'data:')) for address in addresses), addresses
  context.close()


def drop(page, path):
  """Drops a file onto the page, as a person does."""
  data = page.evaluate_handle(
    """([bytes, name]) => {
      const data = new DataTransfer();
      data.items.add(new File([Uint8Array.from(atob(bytes), c => c.charCodeAt(0))], name));
      return data;
    }""",
    [base64.b64encode(path.read_bytes()).decode(), path.name],
  )
  for event in ('dragenter', 'dragover', 'drop'):
    page.dispatch_event('#drop', event, {'dataTransfer': data})


def pixels(locator):
  """Returns a screenshot of an element [H, W, 3]."""
  return np.asarray(Image.open(io.BytesIO(locator.screenshot())).convert('RGB'), np.float32)


def drag(page, locator, across):
  box = locator.bounding_box()
  x, y = box['x'] + box['width'] / 2, box['y'] + box['height'] / 2
  page.mouse.move(x, y)
  page.mouse.down()
  for step in range(1, 9):
    page.mouse.move(x + across * step / 8, y)
    page.wait_for_timeout(60)
  page.mouse.up()


def finished(page):
  page.wait_for_selector('#state:has-text("Finished")')


def await_change(page, before):
  """Waits until the preview is another one. (Playwright's own wait needs eval, which the page forbids.)"""
  while page.get_attribute('#preview', 'src') == before:
    page.wait_for_timeout(30)


def screenshot(page, name):
  if folder := os.environ.get('LRM_JAX_SCREENSHOTS'):
    page.screenshot(path=f'{folder}/{name}.png', full_page=True)


def test_image_becomes_an_object_that_turns_and_can_be_downloaded(page, tmp_path):
  drop(page, EXAMPLES / 'burger.png')
  phases = set()
  while not page.evaluate("document.querySelector('model-viewer')?.loaded"):
    phases |= set(page.locator('#phases .now').all_inner_texts())
    assert page.locator('#problem').is_hidden()
    page.wait_for_timeout(30)
  assert phases  # Progress was shown.
  viewer = page.locator('model-viewer')
  page.wait_for_timeout(500)
  before = pixels(viewer)
  assert before.std() > 20 and np.mean(before < 250) > 0.05  # Not blank.
  drag(page, viewer, 240)
  page.wait_for_timeout(500)
  assert np.abs(pixels(viewer) - before).mean() > 2
  finished(page)
  assert page.locator('#downloads a').count() == 7
  screenshot(page, '1280_mesh')
  with page.expect_download() as waiting:
    page.click('#downloads [data-kind=glb]')
  assert waiting.value.suggested_filename == 'burger.glb'
  waiting.value.save_as(tmp_path / 'burger.glb')
  mesh = trimesh.load_mesh(tmp_path / 'burger.glb')
  assert len(mesh.faces) > 1000 and np.ptp(mesh.bounds, axis=0).min() > 0.3


def test_live_views_follow_the_mouse_in_all_kinds(page):
  page.click('.gallery .images')  # The result of the test before.
  page.click('[data-tab=views]')
  canvas = page.locator('.stage > canvas')
  seen = []
  for kind in ('color', 'depth', 'opacity', 'normals'):
    page.click(f'[data-kind={kind}]')
    page.wait_for_selector(f'.stage > canvas[data-view*="kind={kind}"][data-view*="size=256"]')
    seen.append(pixels(canvas))
    assert seen[-1].std() > 10
  assert all(np.abs(a - b).mean() > 1 for i, a in enumerate(seen) for b in seen[:i])
  drag(page, canvas, 200)
  assert 'size=128' in canvas.get_attribute('data-view')  # While it is dragged, then in full.
  page.wait_for_selector('.stage > canvas[data-view*="size=256"]')
  assert np.abs(pixels(canvas) - seen[-1]).mean() > 2
  screenshot(page, '1280_views')


def test_mask_is_edited(page):
  page.set_input_files('#file', EXAMPLES / 'chair.png')
  page.wait_for_selector('#preview[src^=data]')
  finished(page)
  page.wait_for_timeout(500)
  before, shown = page.get_attribute('#preview', 'src'), pixels(page.locator('#mask'))
  page.click('[data-tool=erase]')
  drag(page, page.locator('#mask'), 120)
  await_change(page, before)
  assert np.abs(pixels(page.locator('#mask')) - shown).mean() > 0.2
  erased = page.get_attribute('#preview', 'src')
  page.click('#undo')
  await_change(page, erased)
  assert page.get_attribute('#preview', 'src') == before
  page.click('[data-tool=erase]')
  drag(page, page.locator('#mask'), 120)
  page.wait_for_timeout(400)
  page.click('summary')
  page.uncheck('#video')
  screenshot(page, '1280_mask')
  job = page.locator('.item.open').get_attribute('data-job')
  page.click('#start')
  page.wait_for_selector(f'.item.open:not([data-job="{job}"])')
  images = [page.locator(f'.item[data-job="{name}"] img').first.get_attribute('src') for name in
            (job, page.locator('.item.open').get_attribute('data-job'))]  # fmt: skip
  bodies = [page.request.get(page.url.rstrip('/') + source).body() for source in images]
  assert bodies[0] != bodies[1]  # The network saw another image.
  page.locator('.item button:text("Compare")').last.click()
  page.wait_for_selector('.panes.two')
  page.wait_for_timeout(1500)
  screenshot(page, '1280_compare')


@pytest.mark.parametrize(
  'name, data, sentence',
  [
    ('letter.txt', b'Dear reader,\n' * 50, 'letter.txt is not an image: give a PNG'),
    ('huge.png', bomb(), 'huge.png has 30000 x 30000 pixels, more than the limit of 20,000,000: make it smaller.'),
  ],
)
def test_file_that_is_refused(page, tmp_path, name, data, sentence):
  (tmp_path / name).write_bytes(data)
  drop(page, tmp_path / name)
  page.wait_for_selector('#problem:not([hidden])')
  text = page.inner_text('#problem')
  assert sentence in text and re.fullmatch(r'[^\n]+\.', text)
  assert page.locator('#editor').is_hidden()
  screenshot(page, f'1280_refused_{name}')


def test_job_is_cancelled_in_the_middle(page):
  page.click('#examples button >> nth=3')
  page.click('#cancel')
  page.wait_for_selector('#state:has-text("Cancelled")')
  assert page.locator('#start').is_enabled() and page.locator('#downloads a').count() == 0
  assert page.locator('.item p:text-is("gravestone")').count() == 0
  page.click('#start')
  finished(page)
  assert page.locator('.item p:text-is("gravestone")').count() == 1


def test_two_clients_each_get_their_own_result(browser, server):
  first, second = (open_page(browser, server) for _ in range(2))
  pages = {'lantern': next(first), 'sofa': next(second)}
  for name, page in pages.items():
    page.set_input_files('#file', EXAMPLES / f'{name}.png')
  for name, page in pages.items():
    finished(page)
    assert page.inner_text('.pane .caption b') == name
    assert page.get_attribute('#downloads [data-kind=glb]', 'download') == f'{name}.glb'
  urls = [page.get_attribute('#downloads [data-kind=glb]', 'href') for page in pages.values()]
  assert urls[0] != urls[1]
  for pages in (first, second):
    assert next(pages, None) is None


def test_saved_page_shows_a_mesh_in_its_own_colours_without_a_server(browser, tmp_path):
  """The page of the quickstart, opened as a file."""
  ball = trimesh.creation.icosphere(subdivisions=3, radius=0.5)
  ball.visual.vertex_colors = np.tile(np.array([200, 100, 50, 255], np.uint8), (len(ball.vertices), 1))
  glb.write(ball, tmp_path / 'ball.glb')
  script = (ROOT / 'lrm_jax/view/static/model-viewer.min.js').read_text()
  text = evaluation_page.document('A ball', evaluation_page.mesh(tmp_path / 'ball.glb', 200, 'mesh'), script=script)
  (tmp_path / 'index.html').write_text(text)
  page, addresses = browser.new_page(), []
  page.on('request', lambda request: addresses.append(request.url.partition(':')[0]))
  page.goto(f'file://{tmp_path}/index.html', timeout=SECONDS)
  page.locator('model-viewer').scroll_into_view_if_needed()
  while not page.evaluate("document.querySelector('model-viewer').loaded"):
    page.wait_for_timeout(50)
  page.wait_for_timeout(1000)
  shown = pixels(page.locator('model-viewer'))
  np.testing.assert_allclose(shown[90:110, 90:110], np.broadcast_to([200, 100, 50], (20, 20, 3)), atol=3)
  assert set(addresses) <= {'file', 'data', 'blob'}
  # At distance 2 with a field of view of 50 degrees, a ball of radius 0.5 covers 0.5 / sqrt(3.75) / tan(25 deg).
  assert np.mean(shown[100, :, 2] < 150) == pytest.approx(0.554, abs=0.03)
  page.close()


def test_page_fits_a_phone(browser, server):
  pages = open_page(browser, server, 390, 844)
  page = next(pages)
  screenshot(page, '390_start')
  page.click('#examples button >> nth=1')
  finished(page)
  page.wait_for_timeout(1000)
  assert page.evaluate('document.documentElement.scrollWidth') <= 390
  screenshot(page, '390_mesh')
  assert next(pages, None) is None
