"""Builds an `object_views` dataset from rendered folders: python data/build.py --renders=DIR --out=DIR

  --test_list=FILE     uids to hold out, one a line ('#' starts a comment); else --test_share of them, by hash
  --exclude_list=FILE  uids to leave out
  --quality=Q          lossy WebP (alpha lossless) in place of the pictures as they are
  --num_views=N        the first N views of each object
Writes OUT/object_views/<version>, which is what config.data.path and the readers take.
"""

import argparse
from pathlib import Path
import sys
import zlib

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from data.object_views import ObjectViews  # pylint: disable=wrong-import-position


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--renders', type=Path, required=True)
  parser.add_argument('--out', type=Path, required=True)
  parser.add_argument('--test_list', type=Path)
  parser.add_argument('--exclude_list', type=Path)
  parser.add_argument('--test_share', type=float, default=0.1)
  parser.add_argument('--quality', type=int)
  parser.add_argument('--num_views', type=int)
  args = parser.parse_args()
  try:
    splits = split_folders(args.renders, args.test_list, args.exclude_list, args.test_share)
    builder = ObjectViews(splits=splits, quality=args.quality, num_views=args.num_views, data_dir=args.out)
    builder.download_and_prepare()
  except (ValueError, FileNotFoundError) as error:
    print(f'build: {error}', file=sys.stderr)
    return 2
  counts = ', '.join(f'{split.num_examples} {name}' for name, split in builder.info.splits.items())
  print(f'{builder.data_dir}: {counts} objects')
  return 0


def split_folders(renders: Path, test_list: Path | None, exclude_list: Path | None, test_share: float):
  """Returns {'train': folders, 'test': folders}; ValueError where there is nothing, or a listed uid is not there."""
  folders = {path.name: path for path in sorted(renders.glob('*/')) if (path / 'cameras.npz').is_file()}
  if not folders:
    raise ValueError(f'{renders} holds no rendered objects (folders with cameras.npz): run data/render.py first')
  excluded = read_list(exclude_list) if exclude_list else set()
  kept = {uid: path for uid, path in folders.items() if uid not in excluded}
  if test_list:
    held_out = read_list(test_list)
    if missing := held_out - kept.keys():
      raise ValueError(f'{test_list} names objects that are not in {renders}: {", ".join(sorted(missing))}')
  else:
    held_out = {uid for uid in kept if zlib.crc32(uid.encode()) % 10_000 < test_share * 10_000}
  return {'train': [path for uid, path in kept.items() if uid not in held_out],
          'test': [path for uid, path in kept.items() if uid in held_out]}


def read_list(path: Path) -> set[str]:
  """Returns the uids in a file, one a line; '#' starts a comment."""
  lines = (line.split('#')[0].strip() for line in path.read_text().splitlines())
  return {line for line in lines if line}


if __name__ == '__main__':
  sys.exit(main())
