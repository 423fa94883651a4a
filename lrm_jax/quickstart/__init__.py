"""From nothing to 3D in ten minutes on two cores: python -m lrm_jax.quickstart [--out=out/quickstart] [--minutes=5]

1. reconstructs held-out objects of the embedded dataset, one picture each, with the model that ships;
2. trains the same configuration from scratch, for `--minutes`;
3. writes OUT/index.html (curves, figures, pictures, turntables, meshes), OUT/metrics.json and OUT/overview.png.
"""

import contextlib
import json
from pathlib import Path
import shutil
import time

import numpy as np
from PIL import Image

from lrm_jax.configs import quickstart as quickstart_config
from lrm_jax.datasets.views import load_views
from lrm_jax.evaluate import table
from lrm_jax.evaluation import baselines, novel_views
from lrm_jax.geometry import images
from lrm_jax.quickstart import page
from lrm_jax.reconstruct import reconstruct
from lrm_jax.reconstruction import reconstructor, video
from lrm_jax.training import metric_writer
from lrm_jax.training.loop import train
from lrm_jax.weights import pretrained

SIZE = 64  # px of the views that the figures are taken from
_MESH_RESOLUTION = 96  # keeps the page, which holds the meshes, small
_NAMES = {
  'model': 'the model that ships',
  'fresh': 'trained just now',
  'input_view': 'the input picture, repeated',
  'mean_view': 'the mean training view',
  'white': 'a white picture',
}


class Clock:
  """Seconds by phase."""

  def __init__(self):
    self.seconds = {}

  @contextlib.contextmanager
  def phase(self, name: str, text: str):
    print(f'\n== {text}', flush=True)
    began = time.monotonic()
    yield
    self.seconds[name] = round(time.monotonic() - began, 1)


def reconstruct_objects(model: reconstructor.Reconstructor, views: dict, shown: list[int], out: Path) -> dict:
  """Writes mesh, videos and planes of some of the objects; returns {index: {kind: file}}, without those that fail."""
  files = {}
  for index in shown:
    uid = views['uid'][index]
    try:
      files[index] = reconstruct(model, views['image'][index], out / 'objects', uid, resolution=_MESH_RESOLUTION)
      print(f'{uid}: {files[index]["mesh"]}, {files[index]["video"].name}', flush=True)
    except ValueError as error:
      print(f'{uid}: {error}', flush=True)
  return files


def train_fresh(workdir: Path, minutes: float, data_path: str) -> reconstructor.Reconstructor:
  """Trains configs/quickstart.py from scratch until the time is up; returns the model."""
  config = quickstart_config.get_config()
  config.data.path = data_path
  config.eval_every = 200  # steps: the first figures come after a minute or two
  config.checkpoint_every = 10**9  # Only the last state is kept.
  shutil.rmtree(workdir, ignore_errors=True)  # A run that is there would be resumed.
  train(config, workdir, time_limit_seconds=60 * minutes)
  return reconstructor.from_pretrained(workdir)


def sections(views: dict, files: dict, shipped, fresh) -> str:
  """Returns the HTML of the objects shown: pictures, turntables and mesh of each."""
  result = []
  for index in files:
    novel = _spread(1, views['color'].shape[1], 5)

    def depth(v, i=index):
      return images.depth_to_color(shipped.depth[i, v], shipped.opacity[i, v])

    rows = {
      'truth': [views['color'][index, v] for v in novel],
      'ships': [shipped.color[index, v] for v in novel],
      'depth': [depth(v) for v in novel],
      'just now': [fresh.color[index, v] for v in novel],
    }
    input_figure = (
      f'<figure>{page.picture(views["image"][index], 128)}<figcaption>the input picture</figcaption></figure>'
    )
    result.append(
      page.section(
        views['uid'][index],
        input_figure,
        page.pictures(rows, 72),
        page.mesh(files[index]['mesh'], 200, 'the mesh: drag, wheel, double click for light'),
        page.column(
          page.video(files[index]['video'], 128, 'turntable'), page.video(files[index]['depth'], 128, 'depth')
        ),
      )
    )
  return '\n'.join(result)


def write_page(out: Path, summary: dict, rows: dict, views: dict, files: dict, pixels: dict, runs: dict) -> Path:
  """Writes OUT/index.html."""
  seconds = ', '.join(f'{name.replace("_", " ")} {value:.0f} s' for name, value in summary['seconds'].items())
  levels = {_NAMES[name]: rows[name]['psnr'] for name in ('white', 'mean_view', 'input_view')}
  figures = [(_NAMES[name], rows[name]['psnr'], rows[name]['ssim']) for name in _NAMES]
  text = page.document(
    'One picture to a 3D object',
    page.paragraph(
      f'{summary["objects"]} objects that no model was trained on. Of each, one picture goes in; the other '
      f'{summary["views"]} views, at {SIZE} px, are compared with the truth.'
    ),
    page.table(['', 'PSNR, dB', 'SSIM'], figures, ours=(0, 1)),
    page.paragraph(f'This took: {seconds}. The last three rows predict without learning anything.', note=True),
    page.heading('Curves'),
    page.curves(runs, levels),
    page.paragraph(
      'Trained without LPIPS (the VGG16 weights it needs may not ship with this repository, and cost more than this '
      'model): what the model is unsure of is blurred. During training fewer held-out objects are evaluated than '
      'above.',
      note=True,
    ),
    page.heading('Held-out objects'),
    page.paragraph('Evenly spread over the list, not chosen. The mesh starts where the input camera stood.', note=True),
    sections(views, files, pixels['model'], pixels['fresh']),
  )
  path = out / 'index.html'
  fresh = path.with_suffix('.html.tmp')
  fresh.write_text(text)
  return fresh.rename(path)


def overview(model: reconstructor.Reconstructor, views: dict, shown: list[int], size: int = 128) -> np.ndarray:
  """Returns one picture: a row an object: the input, then what is made of it from four sides, colour and depth."""
  poses, intrinsics = model.turntable(4)
  rows = []
  for index in shown:
    pixels = model.render(model.encode(views['image'][index][None]), poses, intrinsics, size)
    depth = video.depth_frames(pixels.depth[0], pixels.opacity[0])
    rows.append([images.resize(views['image'][index], size), *pixels.color[0], *depth])
  return images.grid(rows)


def _spread(first: int, last: int, count: int) -> list[int]:
  """Returns up to `count` indices, evenly spread over first .. last - 1."""
  return sorted({int(i) for i in np.linspace(first, last - 1, min(count, last - first))})


def run(args) -> dict:
  """Does all of it; returns what metrics.json holds."""
  out, clock = args.out, Clock()
  out.mkdir(parents=True, exist_ok=True)
  data_path = args.data
  with clock.phase('load', 'The model that ships and the held-out objects'):
    model = reconstructor.from_pretrained(args.checkpoint)
    directory = pretrained.find(args.checkpoint)
    views = load_views(data_path, 'test', image_size=model.image_size, size=SIZE)
    objects, num_views = views['color'].shape[:2]
    print(f'{directory}: trained for {model.step} steps; {objects} objects, {num_views} views each')
  with clock.phase('reconstruct', f'1. One picture -> 3D: {args.objects} held-out objects'):
    files = reconstruct_objects(model, views, _spread(0, objects, args.objects), out)
  with clock.phase('evaluate', f'   Novel views of all {objects} held-out objects'):
    pixels = {'model': novel_views.predict(model.model, views)}
    mean_view = baselines.mean_training_view(data_path, 'train', SIZE)
    rows = {'model': novel_views.score(pixels['model'], views)} | baselines.trivial(views, mean_view)
    _print_table(rows)
  with clock.phase('train', f'2. The same model from scratch, for {args.minutes:g} minutes'):
    fresh = train_fresh(out / 'fresh', args.minutes, data_path)
  with clock.phase('evaluate_fresh', '   Novel views by the model trained just now'):
    pixels['fresh'] = novel_views.predict(fresh.model, views)
    rows['fresh'] = novel_views.score(pixels['fresh'], views)
    _print_table(rows)
  summary = (
    {f'psnr_{name}': rows[name]['psnr'] for name in _NAMES}
    | {f'ssim_{name}': rows[name]['ssim'] for name in _NAMES}
    | {
      'objects': objects,
      'views': num_views - 1,
      'size': SIZE,
      'fresh_steps': fresh.step,
      'checkpoint': str(directory),
      'checkpoint_steps': model.step,
      'seconds': clock.seconds,
    }
  )
  with clock.phase('page', '3. The page'):
    runs = {_NAMES['fresh']: metric_writer.read(out / 'fresh')}
    if (directory / 'metrics.jsonl').is_file():
      runs = {_NAMES['model']: metric_writer.read(directory)} | runs
    shown = overview(model, views, list(files) or [0])
    Image.fromarray(images.to_bytes(shown)).save(out / 'overview.png')
    path = write_page(out, summary, rows, views, files, pixels, runs)
  (out / 'metrics.json').write_text(json.dumps(summary, indent=2) + '\n')
  print(f'\nOpen {path}\n' + ', '.join(f'{name} {value:.0f} s' for name, value in clock.seconds.items()))
  return summary


def _print_table(rows: dict) -> None:
  print(
    table(
      {_NAMES[name]: {column: rows[name][column] for column in ('psnr', 'ssim')} for name in _NAMES if name in rows}
    ),
    flush=True,
  )
