# PYTHON_ARGCOMPLETE_OK
"""Exports a model: python -m lrm_jax.export --checkpoint=runs/mine --out=DIR [--format=lrm_jax] [--step=N]
Or uploads it to the Hugging Face Hub: python -m lrm_jax.export --checkpoint=runs/mine --push_to_hub=owner/name

The formats lrm_jax, openlrm, triposr, torch and stablehlo are described in lrm_jax/export/__init__.py. Every command
accepts the result as `--checkpoint=DIR`, except that of stablehlo.
"""

import argparse
from pathlib import Path
import sys
import tempfile

from lrm_jax.command_line import run_main
from lrm_jax.errors import InputError
from lrm_jax.evaluation import results
from lrm_jax.export import FORMATS, export, hub
from lrm_jax.weights import pretrained


def parser() -> argparse.ArgumentParser:
  """Returns the parser of the command's options."""
  result = argparse.ArgumentParser(prog='lrm_jax.export', description=__doc__.split('\n\n')[0])
  model = result.add_argument_group('model')
  model.add_argument('--checkpoint', required=True, help=pretrained.HELP)
  model.add_argument('--step', type=int, help='step of the checkpoint (default: the last one)')
  output = result.add_argument_group('output')
  output.add_argument('--out', type=Path, help='a new or empty output directory; not needed with --push_to_hub')
  output.add_argument('--format', default='lrm_jax', help=f'one of {", ".join(FORMATS)} (default: lrm_jax)')
  upload = result.add_argument_group('Hugging Face Hub')
  upload.add_argument('--push_to_hub', metavar='OWNER/NAME', help='upload the export, with a model card (README.md)')
  upload.add_argument('--private', action='store_true', help='make a new repository private')
  upload.add_argument('--license', help='licence of the model, such as apache-2.0 or cc-by-nc-4.0, for the card')
  upload.add_argument('--datasets', help='training data, for the card: names on the Hub, with commas')
  upload.add_argument('--results', type=Path, help='--out of lrm_jax.evaluate, for the card: its numbers of this model')
  return result


def main() -> None:
  args = parser().parse_args()
  if args.push_to_hub is None:
    given = [name for name in ('private', 'license', 'datasets', 'results') if getattr(args, name)]
    if given:
      raise InputError(f'--{given[0]} is for uploads: give --push_to_hub=owner/name, or omit it')
    if args.out is None:
      raise InputError('give --out=DIR, or --push_to_hub=owner/name')
  else:
    hub.check(args.push_to_hub)
    if args.format == 'stablehlo':
      raise InputError('--format=stablehlo cannot be loaded from the Hub by hf://: use another format')
    if args.results is not None:
      args.results = results.read(args.results)
      _check_results(args)
  with tempfile.TemporaryDirectory() as folder:
    out = export(args.checkpoint, args.out or Path(folder) / 'model', args.step, format=args.format)
    size = sum(path.stat().st_size for path in out.rglob('*') if path.is_file())
    if args.out is not None:
      print(f'{out}: {size / 1e6:.1f} MB')
    if args.push_to_hub is not None:
      _push(args, out, size)


def _check_results(args: argparse.Namespace) -> None:
  """Raises InputError if the results are those of another model, by the SHA-256 of the parameters."""
  model, _, _ = pretrained.load(args.checkpoint, args.step)
  if results.hash_of_arrays(pretrained.flat_parameters(model)) != args.results.get('hash'):
    raise InputError(
      f'--results are those of another model, {args.results["system"]}: evaluate {args.checkpoint} again'
    )


def _push(args: argparse.Namespace, out: Path, size: int) -> None:
  """Uploads the export in `out`."""
  datasets = args.datasets.split(',') if args.datasets else ()
  address = hub.push(
    out, args.push_to_hub, license=args.license, datasets=datasets, results=args.results, private=args.private
  )
  print(f'{address}: {size / 1e6:.1f} MB')
  if args.license is None:
    print('note: the card has no licence, so others may not use the model; --license=... adds one', file=sys.stderr)


if __name__ == '__main__':
  run_main(main)
