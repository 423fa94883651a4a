"""The quickstart: reconstruct with the pretrained model, train from scratch, evaluate both, write a page."""

import json
from pathlib import Path
import shutil

import numpy as np
from PIL import Image

from lrm_jax.command_line import Phases
from lrm_jax.configs import quickstart as quickstart_config
from lrm_jax.datasets.records import split_sizes
from lrm_jax.datasets.views import HeldOut, ViewRules, color
from lrm_jax.errors import InputError
from lrm_jax.evaluate import table
from lrm_jax.evaluation import baselines, novel_views, page
from lrm_jax.evaluation.curves import Panel, curves
from lrm_jax.geometry import images
from lrm_jax.reconstruct import reconstruct
from lrm_jax.reconstruction import reconstructor, video
from lrm_jax.training import metric_writer
from lrm_jax.training.loop import train
from lrm_jax.weights import pretrained

MODEL_VIEWER = Path(__file__).parents[1] / 'view/static/model-viewer.min.js'
SIZE = 64  # pixels along a side of the evaluated views
_MESH_RESOLUTION = 96  # The page embeds the meshes: keep it small.
_NAMES = {
  'model': 'pretrained model',
  'fresh': 'model trained just now',
  'input_view': 'baseline: the input image for every view',
  'mean_view': 'baseline: the mean training view',
  'white': 'baseline: a white image',
}


def reconstruct_objects(model: reconstructor.Reconstructor, views: dict, shown: list[int], out: Path) -> dict:
  """Writes mesh, videos and planes of the objects `shown`; returns {index: {kind: file}} without those that failed."""
  files = {}
  for index in shown:
    uid = views['uid'][index]
    try:
      files[index] = reconstruct(model, views['image'][index], out / 'objects', uid, resolution=_MESH_RESOLUTION)
      print(f'{uid}: {files[index]["mesh"]}, {files[index]["video"].name}', flush=True)
    except InputError as error:
      print(f'{uid}: {error}', flush=True)
  return files


def train_fresh(workdir: Path, minutes: float, data_path: str) -> reconstructor.Reconstructor:
  """Trains the configuration `quickstart` from scratch for some minutes; returns the model."""
  config = quickstart_config.get_config()
  config.data.path = data_path
  if 'validation' not in split_sizes(data_path):
    config.data.eval_split = 'test'
  config.eval_every = 200  # steps: the first evaluation comes after a minute or two
  config.checkpoint_every = 10**9  # Keep only the last state.
  shutil.rmtree(workdir, ignore_errors=True)  # An existing run would be resumed.
  train(config, workdir, time_limit_seconds=60 * minutes)
  return reconstructor.from_pretrained(workdir)


def sections(views: dict, files: dict, shipped, fresh) -> str:
  """Returns the HTML of the objects shown: images, turntables and mesh of each."""
  result = []
  for index in files:
    novel = _spread(1, views['color'].shape[1], 5)

    def depth(v, i=index):
      return images.depth_to_color(shipped.depth[i, v], shipped.opacity[i, v])

    rows = {
      'ground truth': [views['color'][index, v] for v in novel],
      'pretrained': [shipped.color[index, v] for v in novel],
      'its depth': [depth(v) for v in novel],
      'trained just now': [fresh.color[index, v] for v in novel],
    }
    input_figure = f'<figure>{page.image(views["image"][index], 128)}<figcaption>input image</figcaption></figure>'
    result.append(
      page.section(
        views['uid'][index],
        input_figure,
        page.image_rows(rows, 72),
        page.mesh(files[index]['mesh'], 200, 'mesh: drag to rotate, scroll to zoom'),
        page.column(
          page.video(files[index]['video'], 128, 'turntable'), page.video(files[index]['depth'], 128, 'depth')
        ),
      )
    )
  return '\n'.join(result)


def write_page(
  out: Path, seconds: dict, rows: dict, counts: tuple[int, int], views: dict, files: dict, pixels: dict, runs: dict
) -> Path:
  """Writes OUT/index.html and returns its path.

  `seconds` is {phase: duration}, `rows` {model or baseline: scores}, `counts` the numbers of evaluated objects and of
  their views, `views` those of the objects shown, `files` {index: {kind: file}} of these objects, `pixels` {model:
  rendered views} and `runs` {model: records of metrics.jsonl}.
  """
  duration = ', '.join(f'{name.replace("_", " ")} {value:.0f} s' for name, value in seconds.items())
  objects, num_views = counts
  levels = {_NAMES[name]: rows[name]['psnr'] for name in ('white', 'mean_view', 'input_view')}
  scores = [(_NAMES[name], rows[name]['psnr'], rows[name]['ssim']) for name in _NAMES]
  text = page.document(
    'From one image to a 3D object',
    page.paragraph(
      f'Neither model was trained on these {objects} objects. Each object is reconstructed from a single image. The '
      f'table compares the other {num_views - 1} views, rendered at {SIZE} x {SIZE} pixels, with the ground truth; '
      'higher is better.'
    ),
    page.table(['', 'PSNR, dB', 'SSIM'], scores, ours=(0, 1)),
    page.paragraph(f'The baselines need no model. Time taken: {duration}.', note=True),
    page.heading('Learning curves'),
    curves(
      [
        Panel('loss', 'training loss', smooth=True, log_values=True),
        Panel('eval_psnr', 'PSNR of novel views, held-out objects', 'dB', levels=levels),
      ],
      runs,
    ),
    page.paragraph(
      'The model trained just now is the smaller one of configs/quickstart.py, and has no LPIPS loss, whose network is '
      'not in this repository. Parts that a model cannot know are blurred. The PSNR during training is that of '
      'the validation split, or of the test split if the dataset has no validation split.',
      note=True,
    ),
    page.heading('Held-out objects'),
    page.paragraph(
      'These objects are evenly spaced in the list, not hand-picked. Each mesh is first shown from the input camera.',
      note=True,
    ),
    sections(views, files, pixels['model'], pixels['fresh']),
    script=MODEL_VIEWER.read_text(),
  )
  path = out / 'index.html'
  fresh = path.with_suffix('.html.tmp')
  fresh.write_text(text)
  return fresh.rename(path)


def overview(model: reconstructor.Reconstructor, views: dict, shown: list[int], size: int = 128) -> np.ndarray:
  """Returns an image with a row per object: the input, then colour and depth of its reconstruction from four sides."""
  poses, intrinsics = model.turntable(4)
  rows = []
  for index in shown:
    pixels = model.render(model.encode(views['image'][index][None]), poses, intrinsics, size)
    depth = video.depth_frames(pixels.depth[0], pixels.opacity[0])
    rows.append([images.resize(views['image'][index], size), *pixels.color[0], *depth])
  return images.grid(rows)


def _spread(first: int, last: int, count: int) -> list[int]:
  """Returns up to `count` indices, evenly spaced in first .. last - 1."""
  return sorted({int(i) for i in np.linspace(first, last - 1, min(count, last - first))})


def run(out: Path, *, minutes: float, num_objects: int, checkpoint: str, data: str) -> dict:
  """Runs all steps of the quickstart and writes `out`; returns the content of metrics.json."""
  phases = Phases()
  out.mkdir(parents=True, exist_ok=True)
  _announce('Loading the pretrained model and the held-out objects')
  with phases.phase('load'):
    model = reconstructor.from_pretrained(checkpoint)
    directory = pretrained.find(checkpoint)
    held_out = HeldOut(data, 'test', ViewRules(image_size=model.image_size, size=SIZE))
    objects = len(held_out)
    shown = _spread(0, objects, num_objects)
    views = held_out.load(shown)
    views['color'] = color(views)
    batches = novel_views.Batches(held_out)
    num_views = batches.num_views
    print(f'{directory}: trained for {model.step} steps; {objects} objects, {num_views} views each')
  _announce(f'1. Reconstructing {num_objects} held-out objects, each from one image')
  with phases.phase('reconstruct'):
    files = reconstruct_objects(model, views, list(range(len(shown))), out)
  _announce(f'   Evaluating novel views of all {objects} held-out objects')
  with phases.phase('evaluate'):
    pixels = {'model': novel_views.predict(model.model, views)}
    mean_view = baselines.mean_training_view(data, 'train', SIZE)
    scores = {'model': novel_views.evaluate_model(batches, model.model)[0]} | baselines.trivial(held_out, mean_view)
    rows = {name: score.means() for name, score in scores.items()}
    _print_table(rows)
  _announce(f'2. Training a smaller model, configs/quickstart.py, from scratch for {minutes:g} minutes')
  with phases.phase('train'):
    fresh = train_fresh(out / 'fresh', minutes, data)
  _announce('   Evaluating novel views of the model trained just now')
  with phases.phase('evaluate_fresh'):
    pixels['fresh'] = novel_views.predict(fresh.model, views)
    rows['fresh'] = novel_views.evaluate_model(batches, fresh.model)[0].means()
    _print_table(rows)
  _announce('3. Writing the page')
  with phases.phase('page'):
    runs = {_NAMES['fresh']: metric_writer.read(out / 'fresh')}
    if (directory / 'metrics.jsonl').is_file():
      runs = {_NAMES['model']: metric_writer.read(directory)} | runs
    sheet = overview(model, views, list(files) or [0])
    Image.fromarray(images.to_bytes(sheet)).save(out / 'overview.png')
    path = write_page(out, phases.seconds, rows, (objects, num_views), views, files, pixels, runs)
  summary: dict = {f'{metric}_{name}': rows[name][metric] for metric in ('psnr', 'ssim') for name in _NAMES}
  summary |= {'objects': objects, 'views': num_views - 1, 'size': SIZE, 'fresh_steps': fresh.step}
  summary |= {'checkpoint': str(directory), 'checkpoint_steps': model.step, 'seconds': phases.seconds}
  (out / 'metrics.json').write_text(json.dumps(summary, indent=2) + '\n')
  print(f'\nOpen {path}\n{phases}')
  return summary


def _announce(text: str) -> None:
  print(f'\n== {text}', flush=True)


def _print_table(rows: dict) -> None:
  print(
    table(
      {_NAMES[name]: {column: rows[name][column] for column in ('psnr', 'ssim')} for name in _NAMES if name in rows}
    ),
    flush=True,
  )
