"""Turntable videos: cameras all around the object, and H.264 files."""

from collections.abc import Sequence
from pathlib import Path
import subprocess

import imageio_ffmpeg
from jax import Array
import numpy as np

from lrm_jax.errors import FailureError
from lrm_jax.geometry import cameras, images

ELEVATION = 20.0  # degrees above the horizon


def turntable_cameras(num_frames: int, intrinsics: np.ndarray, position: Sequence[float] = cameras.INPUT_POSITION):
  """Returns camera_to_world [1, V, 4, 4] and intrinsics [1, V, 4] of one turn that starts above `position`."""
  poses = cameras.orbit(num_frames, position, ELEVATION)
  return poses[None].astype(np.float32), np.tile(intrinsics, (1, num_frames, 1)).astype(np.float32)


def depth_frames(depth: np.ndarray | Array, opacity: np.ndarray | Array, distance: float = 2.0) -> np.ndarray:
  """Returns depth [V, H, W] as colour images [V, H, W, 3] in 0..1.

  The range of depths is `distance` +- 0.9 world units: that of an object at the origin, seen from `distance`.
  """
  return images.depth_to_color(np.asarray(depth), np.asarray(opacity), distance - 0.9, distance + 0.9)


def write_video(frames: np.ndarray | Array, path: str | Path, *, frames_per_second: int = 24) -> None:
  """Writes images [V, H, W, 3] in 0..1 as an MP4 that every browser plays (H.264, yuv420p, even sizes).

  Raises FailureError, with the encoder's message, if encoding fails.
  """
  frames = images.to_bytes(np.asarray(frames))
  height, width = frames.shape[1:3]
  frames = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode='edge')
  height, width = frames.shape[1:3]
  # Not through imageio: it forks with a Python function to run in the child, which can deadlock with JAX's threads.
  command = [
    imageio_ffmpeg.get_ffmpeg_exe(),
    '-y',
    '-loglevel',
    'error',
    '-f',
    'rawvideo',
    '-pix_fmt',
    'rgb24',
    '-s',
    f'{width}x{height}',
    '-r',
    str(frames_per_second),
    '-i',
    '-',
    '-an',
    '-c:v',
    'libx264',
    '-crf',
    '16',
    '-pix_fmt',
    'yuv420p',
    '-movflags',
    '+faststart',
    str(path),
  ]
  result = subprocess.run(command, input=frames.tobytes(), capture_output=True, check=False)
  if result.returncode:
    raise FailureError(f'{path} could not be encoded: {result.stderr.decode(errors="replace").strip()}')
