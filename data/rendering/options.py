"""Options that the commands which render objects share: data/render.py, data/procedural.py and data/infinigen.py."""

import argparse
from collections.abc import Sequence

from lrm_jax.errors import InputError


def add_views(group, *, num_views: int, size: int, fov_of: str) -> None:
  """Adds the options of the views with these defaults; `fov_of` is the option that the field of view comes from."""
  group.add_argument(
    '--num_views',
    type=int,
    default=num_views,
    help=f'views per object, including the frontal one (default: {num_views})',
  )
  group.add_argument('--size', type=int, default=size, help=f'pixels along a side of a view (default: {size})')
  group.add_argument('--fov', type=float, help=f'full field of view in degrees (default: from {fov_of})')
  group.add_argument('--depth', action='store_true', help='also write depth')
  group.add_argument('--normals', action='store_true', help='also write normals')


def check(args: argparse.Namespace, positive: Sequence[str], not_negative: Sequence[str] = ()) -> None:
  """Raises InputError if a value is out of range; `positive` and `not_negative` name whole numbers."""
  for names, least in ((positive, 1), (not_negative, 0)):
    for name in names:
      if getattr(args, name) < least:
        raise InputError(f'--{name}={getattr(args, name)} must be at least {least}')
  if args.fov is not None and not 1 <= args.fov <= 150:
    raise InputError(f'--fov={args.fov} must be between 1 and 150 degrees')
  if not 0 <= args.method <= 6 or not args.timeout > 0:
    raise InputError(f'--method={args.method} must be 0 to 6, and --timeout={args.timeout} above 0')
