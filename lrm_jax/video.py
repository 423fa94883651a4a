"""Turntables: a model's planes seen from all around, as H.264 video."""

from pathlib import Path

import imageio.v2 as imageio
import numpy as np

from lrm_jax import cameras, images

ELEVATION = 20.0  # degrees above the horizon


def turntable_cameras(num_frames: int, intrinsics: np.ndarray, distance: float = cameras.INPUT_DISTANCE):
  """Returns camera_to_world [1, V, 4, 4] and intrinsics [1, V, 4] of one turn that starts at the input view."""
  poses = cameras.orbit(num_frames, distance, ELEVATION)
  return poses[None].astype(np.float32), np.tile(intrinsics, (1, num_frames, 1)).astype(np.float32)


def depth_frames(depth: np.ndarray, opacity: np.ndarray) -> np.ndarray:
  """Returns pictures [V, H, W, 3] of depth: the range is that of the cube around the middle of the scene."""
  return images.depth_to_color(depth, opacity, cameras.INPUT_DISTANCE - 0.9, cameras.INPUT_DISTANCE + 0.9)


def write_video(frames: np.ndarray, path: str | Path, *, frames_per_second: int = 24) -> None:
  """Writes pictures [V, H, W, 3] in 0..1 as MP4 that every browser plays (H.264, yuv420p, even sizes)."""
  frames = images.to_bytes(frames)
  height, width = frames.shape[1:3]
  frames = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode='edge')
  with imageio.get_writer(
      str(path), format='FFMPEG', mode='I', fps=frames_per_second, codec='libx264', pixelformat='yuv420p', quality=8,
      macro_block_size=2, ffmpeg_log_level='error') as writer:
    for frame in frames:
      writer.append_data(frame)
