# PYTHON_ARGCOMPLETE_OK
"""Builds a dataset from folders of views: python -m lrm_jax.data.build --source=DIR --out=OUT

DIR contains one folder per object, in one of the layouts of lrm_jax/datasets/folders, which is detected automatically:
  rendered   output of data/render.py                       -> objaverse_views
  openlrm    OpenLRM: rgba/, pose/, intrinsics.npy          -> openlrm_folders
  nerf       NeRF: transforms.json or transforms_train.json -> nerf_folders
  video      COLMAP model with masks, as in MVImgNet        -> mvimgnet

Writes OUT/<name>/<version> and prints this path, which is the value for --config.data.path. Check the result with
`python -m lrm_jax.data_check`.

Objects that cannot be read are skipped: they are printed with the reason, and listed in skipped.jsonl in the dataset.
The exit code is 1 if their share exceeds --max_bad_share, and 2 for bad input. A build that is interrupted leaves
no dataset. The format is described in data/README.md.
"""

import argparse
from collections.abc import Mapping
import fcntl
import json
from pathlib import Path
import shutil
import sys
import zlib

from lrm_jax.command_line import run_main
from lrm_jax.data.object_views import BUILDERS
from lrm_jax.datasets import folders
from lrm_jax.datasets.folders.images import Options
from lrm_jax.errors import InputError


def main() -> int:
  args, beam_options = _parse()
  layout, found = folders.find(args.source, args.layout)
  if args.uids:
    found = _select(found, args.uids)
  splits = split_by_uid(found, args.test_list, args.exclude_list, args.test_share, args.validation_share)
  options = Options(args.background, args.quality, args.num_views, args.size, args.fill)
  builder = BUILDERS[layout](splits=splits, options=options, by_beam=args.beam, data_dir=args.out)
  build(builder, beam_options if args.beam else None)
  for uid, reason in builder.skipped.items():
    print(f'skipped {uid}: {reason}', file=sys.stderr)
  counts = ', '.join(f'{split.num_examples} {name}' for name, split in builder.info.splits.items())
  print(f'{builder.data_dir}: {counts} objects, {len(builder.skipped)} skipped')
  return int(len(builder.skipped) > args.max_bad_share * sum(map(len, splits.values())))


def build(builder, beam_options: list[str] | None = None) -> None:
  """Writes a dataset with its skipped.jsonl, completely or not at all.

  `beam_options` are the command-line options of the Beam pipeline, or None to read without Beam. Raises InputError if
  the dataset already exists, if a split has no usable object, or if another build is writing to the same directory.
  """
  config = None if beam_options is None else _beam_config(beam_options)
  place = Path(builder.data_dir)
  if place.exists():
    raise InputError(f'{place} already exists: remove it, or give another --out')
  place.parent.mkdir(parents=True, exist_ok=True)
  with open(place.parent / '.lock', 'w', encoding='utf-8') as lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise InputError(f'another build is writing to {place.parent}: wait for it, or give another --out') from None
    # The lock is held, so incomplete folders belong to builds that were killed.
    for leftover in place.parent.glob(f'incomplete.*_{place.name}'):
      shutil.rmtree(leftover)
    shutil.rmtree(builder.notes, ignore_errors=True)
    try:
      builder.download_and_prepare(download_config=config)
    except AssertionError as error:  # tensorflow_datasets raises it for a split without examples.
      builder.skipped |= _skipped_by_beam(builder)
      if not builder.skipped:
        raise
      reasons = '; '.join(list(builder.skipped.values())[:3])
      raise InputError(f'a split has no usable object ({error}): {reasons}') from error
    builder.skipped |= _skipped_by_beam(builder)
    lines = [json.dumps({'uid': uid, 'reason': reason}) + '\n' for uid, reason in builder.skipped.items()]
    (place / 'skipped.jsonl').write_text(''.join(lines))


def _skipped_by_beam(builder) -> dict[str, str]:
  """Returns the objects that Beam workers skipped, {uid: reason}, and removes their notes."""
  skipped = {path.stem: path.read_text() for path in sorted(builder.notes.glob('*.txt'))}
  shutil.rmtree(builder.notes, ignore_errors=True)
  return skipped


def _beam_config(options: list[str]):
  try:
    from apache_beam.options.pipeline_options import PipelineOptions
  except ImportError:
    raise InputError("--beam needs Apache Beam: pip install '.[beam]'") from None
  import tensorflow_datasets as tfds

  return tfds.download.DownloadConfig(beam_options=PipelineOptions(options))


def split_by_uid(
  found: Mapping[str, Path],
  test_list: Path | None = None,
  exclude_list: Path | None = None,
  test_share: float = 0.1,
  validation_share: float = 0.0,
) -> dict[str, dict[str, Path]]:
  """Returns {'train': {uid: folder}, 'validation': ..., 'test': ...}, without empty splits.

  The test split is given by a list, or else by a hash of the uid, so that an object stays in its split when others are
  added or removed. The validation split is always given by the hash. Raises InputError if a listed uid does not exist.
  """
  excluded = read_list(exclude_list) if exclude_list else set()
  kept = {uid: path for uid, path in found.items() if uid not in excluded}
  if test_list:
    held_out = read_list(test_list)
    if missing := held_out - kept.keys():
      raise InputError(f'{test_list} lists objects that do not exist: {", ".join(sorted(missing))}')

  def fraction(uid):
    return zlib.crc32(uid.encode()) % 10_000 / 10_000

  def split_of(uid):
    is_test = uid in held_out if test_list else fraction(uid) < test_share
    if is_test:
      return 'test'
    return 'validation' if 1 - fraction(uid) <= validation_share else 'train'

  splits = {
    name: {uid: path for uid, path in kept.items() if split_of(uid) == name} for name in ('train', 'validation', 'test')
  }
  return {name: objects for name, objects in splits.items() if objects}


def read_list(path: Path) -> set[str]:
  """Returns the uids in a file: one per line, '#' starts a comment; or a JSON list, as OpenLRM uses."""
  if not path.is_file():
    raise InputError(f'{path} does not exist: give a file with one uid per line, or a JSON list of uids')
  text = path.read_text()
  if path.suffix == '.json':
    try:
      return set(json.loads(text))
    except (json.JSONDecodeError, TypeError) as error:
      raise InputError(f'{path} is not a JSON list of uids: {error}') from error
  lines = (line.split('#')[0].strip() for line in text.splitlines())
  return {line for line in lines if line}


def _select(found, path):
  wanted = read_list(path)
  if missing := wanted - found.keys():
    raise InputError(f'{path} lists objects that do not exist: {", ".join(sorted(missing)[:5])}')
  return {uid: folder for uid, folder in found.items() if uid in wanted}


def _parse():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  group = parser.add_argument_group('objects')
  group.add_argument('--source', '--renders', type=Path, required=True, help='folders of views')
  group.add_argument('--out', type=Path, required=True, help='where to write <name>/<version>')
  group.add_argument('--layout', help=f'one of {", ".join(folders.LAYOUTS)} (default: detected automatically)')
  group.add_argument(
    '--uids', type=Path, help='file with the uids to use, one per line or as a JSON list (default: all objects)'
  )
  group = parser.add_argument_group('splits')
  group.add_argument('--test_list', type=Path, help="file with the uids of the test split; '#' starts a comment")
  group.add_argument('--exclude_list', type=Path, help='file with uids to leave out')
  group.add_argument(
    '--test_share',
    type=float,
    default=0.1,
    help='share of the test split without --test_list, by a hash (default: 0.1)',
  )
  group.add_argument(
    '--validation_share', type=float, default=0.0, help='share of the validation split, by a hash (default: 0)'
  )
  group = parser.add_argument_group('images')
  group.add_argument(
    '--quality',
    type=int,
    help='re-encode views as lossy WebP of this quality, with lossless alpha (default: keep them)',
  )
  group.add_argument('--num_views', type=int, help='use only the first views of each object (default: all)')
  group.add_argument(
    '--background', choices=('white', 'black'), help='background colour of images that have no alpha channel'
  )
  group.add_argument('--size', type=int, default=512, help='videos: pixels along a side of a view (default: 512)')
  group.add_argument(
    '--fill', type=float, default=0.7, help='videos: share of the side of a view that the object fills (default: 0.7)'
  )
  group = parser.add_argument_group('run')
  group.add_argument(
    '--max_bad_share', type=float, default=0.05, help='exit with code 1 if a larger share is skipped (default: 0.05)'
  )
  group.add_argument(
    '--beam', action='store_true', help='read objects with Apache Beam; its options may follow, such as --runner=...'
  )
  args, rest = parser.parse_known_args()
  if rest and not args.beam:
    parser.error(f'unrecognized arguments: {" ".join(rest)}')
  for name in ('test_share', 'validation_share', 'max_bad_share'):
    if not 0 <= getattr(args, name) <= 1:
      parser.error(f'--{name}={getattr(args, name)} must be between 0 and 1')
  if not 0.1 <= args.fill <= 1 or args.size < 8:
    parser.error(f'--fill={args.fill} must be between 0.1 and 1, and --size={args.size} at least 8')
  return args, rest


if __name__ == '__main__':
  run_main(main)
