"""The model card (README.md) of a model on the Hugging Face Hub: what it is, how to use it, and its numbers."""

from collections.abc import Mapping, Sequence
import math

from lrm_jax import __version__
from lrm_jax.evaluation import results as results_lib

_ARCHITECTURES = {'lrm': 'LRM', 'openlrm': 'OpenLRM', 'triposr': 'TripoSR'}


def card(
  name: str,
  config: Mapping,
  shapes: Mapping[str, tuple[int, ...]],
  *,
  license: str | None = None,
  datasets: Sequence[str] = (),
  results: Mapping | None = None,
) -> str:
  """Returns the Markdown of the card of hf://`name`, with its front matter in YAML.

  `config` is the configuration of the model, `shapes` are those of its parameters, `results` is the content of a
  results.json. Of the results the card has the system that was evaluated, and leaves out the baselines.
  """
  from huggingface_hub import ModelCardData

  title = name.rpartition('/')[2]
  scores = _scores(results) if results else []
  data = ModelCardData(
    license=license,
    library_name='lrm_jax',
    pipeline_tag='image-to-3d',
    tags=['lrm_jax', 'jax', 'image-to-3d', 'triplane', 'nerf'],
    datasets=list(datasets) or None,
    model_name=title if scores else None,
    eval_results=[_entry(*score) for score in scores] or None,
  )
  model = config['model']
  architecture = _ARCHITECTURES.get(model.get('architecture', 'lrm'), 'LRM')
  count = sum(math.prod(shape) for shape in shapes.values())
  lines = [
    f'# {title}',
    '',
    f'A model of lrm_jax, with the architecture of {architecture} ([LRM](https://arxiv.org/abs/2311.04400)): it turns '
    'one image of an object into a triplane NeRF, and this into views, depth and a mesh.',
    '',
    f'- {count:,} parameters, images of {model["image_size"]} px, {model.get("num_input_views", 1)} input view(s)',
    f'- written by lrm_jax {__version__}',
    '',
    '```python',
    'import lrm_jax',
    '',
    f"model = lrm_jax.from_pretrained('hf://{name}')",
    "model.reconstruct('photo.png').save('out')",
    '```',
    '',
    '```',
    f'python -m lrm_jax.reconstruct photo.png --checkpoint=hf://{name}',
    '```',
  ]
  if results:
    lines += ['', '## Evaluation', '', *_table(results, scores)]
  return f'---\n{data.to_yaml()}\n---\n\n' + '\n'.join(lines) + '\n'


def _scores(results: Mapping) -> list[tuple[Mapping, Mapping, str, Mapping]]:
  """Returns (results, section, metric, summary) of each defined metric of the system, which is the first row."""
  found = []
  for section in results['sections']:
    row = next(iter(section['rows'].values()))
    found += [(results, section, name, one) for name, one in row['summary'].items() if one['mean'] is not None]
  return found


def _data_name(results: Mapping) -> str:
  """Returns the name of the evaluated dataset; of a directory NAME/VERSION these two parts."""
  return '/'.join(str(results['data']).rstrip('/').split('/')[-2:])


def _entry(results: Mapping, section: Mapping, metric: str, summary: Mapping):
  """Returns an entry of the card's model index."""
  from huggingface_hub import EvalResult

  data = _data_name(results)
  return EvalResult(
    task_type='image-to-3d',
    dataset_type=data.replace('/', '--'),
    dataset_name=data,
    dataset_split=results['split'],
    metric_type=metric,
    metric_name=f'{metric} ({section["protocol"]}, version {section["version"]})',
    metric_value=round(summary['mean'], 4),
  )


def _table(results: Mapping, scores: Sequence[tuple]) -> list[str]:
  """Returns the lines of the table of the results."""
  lines = [
    f'Dataset `{_data_name(results)}`, split `{results["split"]}`; mean over objects with its 95 % bootstrap interval.',
    '',
    '| protocol | metric | mean | objects |',
    '|---|---|---|---|',
  ]
  for _, section, metric, one in scores:
    low, high = one['interval']
    where = f'{section["protocol"]}, version {section["version"]}'
    mean = f'{one["mean"]:.4g} [{low:.4g}, {high:.4g}]'
    lines.append(f'| {where} | {results_lib.title(metric)} | {mean} | {one["objects"]} |')
  return lines
