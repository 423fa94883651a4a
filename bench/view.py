"""Times python -m lrm_jax.view with the shipped model: python bench/view.py [--browser] [--json=FILE]

Starts the command and measures the seconds until the page answers, the seconds from an image to its mesh, and the views
a second, one after the other. `--browser` measures the last two in Chromium as well (Playwright). The CPU seconds of
the server say how it would be on a machine that does nothing else: a view keeps all cores busy. Linux only.
"""

import argparse
import json
import os
from pathlib import Path
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

from lrm_jax.client import Client
from lrm_jax.view.server import STATIC

IMAGES = sorted((STATIC / 'examples').glob('*.png'))
CHROMIUM = shutil.which('chromium') or 'chromium'
ARGUMENTS = ['--no-sandbox', '--use-gl=angle', '--use-angle=swiftshader', '--enable-unsafe-swiftshader']


def start(out: Path) -> tuple[subprocess.Popen, str, float]:
  """Returns (process, address, seconds until the page answered)."""
  began = time.monotonic()
  process = subprocess.Popen(
    [sys.executable, '-m', 'lrm_jax.view', '--port=0', f'--out={out}'], stdout=subprocess.PIPE, text=True
  )
  assert process.stdout is not None
  address = process.stdout.readline().split()[1].rstrip('/')
  while True:
    try:
      with urllib.request.urlopen(address, timeout=10) as answer:
        answer.read()
        return process, address, time.monotonic() - began
    except urllib.error.URLError:
      time.sleep(0.01)


def cpu_seconds(process: subprocess.Popen) -> float:
  """Returns the CPU seconds that a process has used, on all cores together."""
  fields = Path(f'/proc/{process.pid}/stat').read_text().rpartition(')')[2].split()
  return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')


def from_image_to_mesh(client: Client, image: Path, folder: Path) -> float:
  """Returns the seconds from sending an image until its GLB is here; waits for the rest of the job."""
  began = time.monotonic()
  job = client.submit(image)
  while 'glb' not in job['files']:
    time.sleep(0.02)
    job = client.job(job['id'])
  client.download(job, 'glb', folder / 'mesh.glb')
  seconds = time.monotonic() - began
  client.wait(job)
  return seconds


def views_a_second(client: Client, size: int, count: int = 40) -> float:
  job = client.jobs(1)[0]
  client.view(job, size=size)
  began = time.monotonic()
  for number in range(count):
    client.view(job, azimuth=5 * number, elevation=10, size=size)
  return count / (time.monotonic() - began)


def in_browser(address: str) -> dict[str, float]:
  """Returns the same two numbers in Chromium: until the mesh is shown, and frames a second while it is dragged."""
  from playwright.sync_api import sync_playwright

  with sync_playwright() as driver:
    browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
    seconds = []
    for image in IMAGES[:3]:
      page = browser.new_page(viewport={'width': 1280, 'height': 900})
      page.goto(address)
      page.wait_for_selector('#ready.ready')
      began = time.monotonic()
      page.set_input_files('#file', image)
      while not page.evaluate("document.querySelector('model-viewer')?.loaded"):
        page.wait_for_timeout(10)
      seconds.append(time.monotonic() - began)
      page.click('[data-tab=views]')  # The mesh is drawn in software: it would take time from the videos.
      page.wait_for_selector('#state:has-text("Finished")', timeout=300_000)
    box = page.locator('.stage > canvas').bounding_box()
    assert box is not None
    page.mouse.move(box['x'] + 100, box['y'] + 100)
    page.mouse.down()
    shown = set()
    began = time.monotonic()
    while time.monotonic() < began + 5:
      page.mouse.move(box['x'] + 100 + 200 * ((time.monotonic() - began) % 1), box['y'] + 100)
      shown.add(page.get_attribute('.stage > canvas', 'data-view'))
    page.mouse.up()
    browser.close()
  return {'browser_mesh_seconds': statistics.median(seconds), 'browser_frames_a_second': len(shown) / 5}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--browser', action='store_true', help='measure in Chromium too')
  parser.add_argument('--json', type=Path, help='write the results to this file')
  args = parser.parse_args()
  with tempfile.TemporaryDirectory() as folder:
    process, address, page = start(Path(folder) / 'out')
    try:
      client = Client(address)
      while not client.about()['ready']:
        time.sleep(0.05)
      results = {'page_seconds': page, 'start_cpu_seconds': cpu_seconds(process)}
      meshes = [from_image_to_mesh(client, image, Path(folder)) for image in IMAGES]
      results |= {'mesh_seconds': statistics.median(meshes), 'mesh_seconds_worst': max(meshes)}
      for size in (128, 256):
        views_a_second(client, size, 3)
        before = cpu_seconds(process)
        results[f'views_a_second_{size}'] = views_a_second(client, size)
        results[f'view_{size}_cpu_seconds'] = (cpu_seconds(process) - before) / 41
      if args.browser:
        results |= in_browser(address)
    finally:
      process.terminate()
      process.wait()
  results['load_average'] = os.getloadavg()[0]
  for name, value in results.items():
    print(f'{name}: {value:.3f}')
  if args.json:
    args.json.write_text(json.dumps(results, indent=2) + '\n')


if __name__ == '__main__':
  main()
