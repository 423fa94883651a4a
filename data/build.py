"""Builds a dataset from folders of views: python data/build.py --source=DIR --out=DIR

DIR holds objects in one of the layouts of lrm_jax/folders: rendered (data/render.py), openlrm, nerf, video (COLMAP with
masks, as MVImgNet); it is recognised, or said with --layout. Writes OUT/<name>/<version>, which is what config.data.path
and the readers take; name is objaverse_views, openlrm_folders, nerf_folders or mvimgnet, by the layout.

  --test_list=FILE     uids to hold out, one a line ('#' starts a comment); else --test_share of them, by hash
  --exclude_list=FILE  uids to leave out
  --quality=Q          lossy WebP (alpha lossless) in place of the pictures as they are
  --num_views=N        the first N views of each object
  --background=white   (or black) of pictures that have no alpha
  --beam [OPTIONS]     read objects by Apache Beam; options of its own may follow, --runner=... and the runner's
An object that cannot be used is left out, named with the reason, and listed in skipped.jsonl beside the dataset; exit
code 1 where they are more than --max_bad_share. Nothing of a build that was stopped is taken for a dataset.
"""

import argparse
from collections.abc import Mapping
import fcntl
import json
from pathlib import Path
import shutil
import sys
import zlib

from lrm_jax.data.object_views import BUILDERS
from lrm_jax.datasets import folders
from lrm_jax.datasets.folders.pictures import Options


def main() -> int:
  args, beam_options = _parse()
  try:
    layout, found = folders.find(args.source, args.layout)
    if args.uids:
      found = _chosen(found, args.uids)
    splits = split_by_uid(found, args.test_list, args.exclude_list, args.test_share, args.validation_share)
    options = Options(args.background, args.quality, args.num_views, args.size, args.fill)
    builder = BUILDERS[layout](splits=splits, options=options, by_beam=args.beam, data_dir=args.out)
    build(builder, beam_options if args.beam else None)
  except (ValueError, FileNotFoundError, BlockingIOError) as error:
    print(f'build: {error}', file=sys.stderr)
    return 2
  for uid, reason in builder.skipped.items():
    print(f'skipped {uid}: {reason}', file=sys.stderr)
  counts = ', '.join(f'{split.num_examples} {name}' for name, split in builder.info.splits.items())
  print(f'{builder.data_dir}: {counts} objects, {len(builder.skipped)} skipped')
  return int(len(builder.skipped) > args.max_bad_share * sum(map(len, splits.values())))


def build(builder, beam_options: list[str] | None = None) -> None:
  """Writes a dataset, whole or not at all, and skipped.jsonl into it; ValueError where it is there, or all is broken."""
  config = None if beam_options is None else _beam_config(beam_options)
  place = Path(builder.data_dir)
  if place.exists():
    raise ValueError(f'{place} is there already: give another --out, or remove it')
  place.parent.mkdir(parents=True, exist_ok=True)
  with open(place.parent / '.lock', 'w', encoding='utf-8') as lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise BlockingIOError(f'another build is writing to {place.parent}: wait for it, or give another --out') from None
    for left in place.parent.glob(f'incomplete.*_{place.name}'):  # Of builds that were killed: we hold the lock.
      shutil.rmtree(left)
    shutil.rmtree(builder.notes, ignore_errors=True)
    try:
      builder.download_and_prepare(download_config=config)
    except AssertionError as error:  # Its word for a split without examples.
      builder.skipped |= _noted(builder)
      if not builder.skipped:
        raise
      reasons = '; '.join(list(builder.skipped.values())[:3])
      raise ValueError(f'no object of a split could be used ({error}): {reasons}') from error
    builder.skipped |= _noted(builder)
    lines = [json.dumps({'uid': uid, 'reason': reason}) + '\n' for uid, reason in builder.skipped.items()]
    (place / 'skipped.jsonl').write_text(''.join(lines))


def _noted(builder) -> dict[str, str]:
  """Returns what a pipeline's workers have left out, and removes their notes."""
  noted = {path.stem: path.read_text() for path in sorted(builder.notes.glob('*.txt'))}
  shutil.rmtree(builder.notes, ignore_errors=True)
  return noted


def _beam_config(options: list[str]):
  try:
    from apache_beam.options.pipeline_options import PipelineOptions  # pylint: disable=import-outside-toplevel
  except ImportError:
    raise ValueError("--beam needs Apache Beam: pip install '.[beam]'") from None
  import tensorflow_datasets as tfds  # pylint: disable=import-outside-toplevel

  return tfds.download.DownloadConfig(beam_options=PipelineOptions(options))


def split_by_uid(
  found: Mapping[str, Path],
  test_list: Path | None = None,
  exclude_list: Path | None = None,
  test_share: float = 0.1,
  validation_share: float = 0.0,
) -> dict[str, dict[str, Path]]:
  """Returns {'train': {uid: folder}, 'validation': ..., 'test': ...}, without splits that would be empty.

  By a list, or by a hash of the uid: an object stays in its split whatever else there is. ValueError where a listed uid
  is not there.
  """
  excluded = read_list(exclude_list) if exclude_list else set()
  kept = {uid: path for uid, path in found.items() if uid not in excluded}
  if test_list:
    held_out = read_list(test_list)
    if missing := held_out - kept.keys():
      raise ValueError(f'{test_list} names objects that are not there: {", ".join(sorted(missing))}')

  def place(uid):
    return zlib.crc32(uid.encode()) % 10_000 / 10_000

  def split_of(uid):
    if uid in held_out if test_list else place(uid) < test_share:
      return 'test'
    return 'validation' if 1 - place(uid) <= validation_share else 'train'

  splits = {
    name: {uid: path for uid, path in kept.items() if split_of(uid) == name} for name in ('train', 'validation', 'test')
  }
  return {name: some for name, some in splits.items() if some}


def read_list(path: Path) -> set[str]:
  """Returns the uids in a file, one a line; '#' starts a comment. A JSON list is taken too, as OpenLRM has them."""
  text = path.read_text()
  if path.suffix == '.json':
    return set(json.loads(text))
  lines = (line.split('#')[0].strip() for line in text.splitlines())
  return {line for line in lines if line}


def _chosen(found, path):
  wanted = read_list(path)
  if missing := wanted - found.keys():
    raise ValueError(f'{path} names objects that are not there: {", ".join(sorted(missing)[:5])}')
  return {uid: folder for uid, folder in found.items() if uid in wanted}


def _parse():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--source', '--renders', type=Path, required=True, help='folders of views')
  parser.add_argument('--out', type=Path, required=True)
  parser.add_argument('--layout', help=f'one of {", ".join(folders.LAYOUTS)} (default: recognised)')
  parser.add_argument('--uids', type=Path, help='file with the uids to take, a line each or a JSON list (default: all)')
  parser.add_argument('--test_list', type=Path)
  parser.add_argument('--exclude_list', type=Path)
  parser.add_argument('--test_share', type=float, default=0.1)
  parser.add_argument('--validation_share', type=float, default=0.0)
  parser.add_argument('--quality', type=int)
  parser.add_argument('--num_views', type=int)
  parser.add_argument('--background', choices=('white', 'black'))
  parser.add_argument('--size', type=int, default=512, help="of a video's views, pixels along a side")
  parser.add_argument('--fill', type=float, default=0.7, help="of a video's views, by the object")
  parser.add_argument('--max_bad_share', type=float, default=0.05)
  parser.add_argument('--beam', action='store_true')
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
  sys.exit(main())
