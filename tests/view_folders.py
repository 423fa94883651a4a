"""Writes folders of views of a ball, in the layouts that lrm_jax.datasets.folders reads."""

import json
import struct

import numpy as np
from PIL import Image

from conftest import ball

NUM_VIEWS = 7


def write_openlrm(root, truth, size=48):
  """Writes an object in OpenLRM's layout, and returns its folder. `truth` is (poses [V, 4, 4], intrinsics [4])."""
  poses, intrinsics = truth
  folder = root / 'ball'
  (folder / 'rgba').mkdir(parents=True)
  (folder / 'pose').mkdir()
  np.save(folder / 'intrinsics.npy', np.array([intrinsics[:2] * size, intrinsics[2:] * size, [size, size]]))
  for view, pose in enumerate(poses):
    Image.fromarray(ball(pose, intrinsics, size, 0.5)).save(folder / f'rgba/{view:03d}.png')
    np.save(folder / f'pose/{view:03d}.npy', pose[:3])
  return folder


def write_nerf(root, truth, size=48, per_frame=False):
  """Writes an object in NeRF's layout, with intrinsics for the file or for each frame, and returns its folder."""
  poses, intrinsics = truth
  folder = root / 'lego'
  (folder / 'train').mkdir(parents=True)
  own = dict(fl_x=intrinsics[0] * size, fl_y=intrinsics[1] * size, cx=size / 2, cy=size / 2, w=size, h=size)
  shared = {} if per_frame else {'camera_angle_x': 2 * np.arctan(0.5 / intrinsics[0])}
  frames = []
  for view, pose in enumerate(poses):
    Image.fromarray(ball(pose, intrinsics, size, 0.5)).save(folder / f'train/r_{view}.png')
    frames.append({'file_path': f'./train/r_{view}', 'transform_matrix': pose.tolist()} | (own if per_frame else {}))
  (folder / 'transforms_train.json').write_text(json.dumps(shared | {'frames': frames[:5]}))
  (folder / 'transforms_test.json').write_text(json.dumps(shared | {'frames': frames[5:]}))
  return folder


def quaternion(rotation):
  """Returns the quaternion (w, x, y, z) of a rotation matrix. Source: Bar-Itzhack 2000."""
  r = rotation
  k = np.array(
    [
      [r[0, 0] - r[1, 1] - r[2, 2], 0, 0, 0],
      [r[0, 1] + r[1, 0], r[1, 1] - r[0, 0] - r[2, 2], 0, 0],
      [r[0, 2] + r[2, 0], r[1, 2] + r[2, 1], r[2, 2] - r[0, 0] - r[1, 1], 0],
      [r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1], np.trace(r)],
    ]
  )
  return np.linalg.eigh(k)[1][[3, 0, 1, 2], -1]


def write_video(root, truth, *, binary, width=96, height=72, similarity=None, model='PINHOLE', off_centre=0.0):
  """Writes a COLMAP model of the ball, with its world transformed by `similarity` [4, 4], and returns its folder."""
  poses, _ = truth
  similarity = np.eye(4) if similarity is None else similarity
  scale = np.cbrt(np.linalg.det(similarity[:3, :3]))
  folder = root / '12' / 'ab34'
  for name in ('images', 'masks', 'sparse/0'):
    (folder / name).mkdir(parents=True)
  focal, centre = 1.2 * width, np.array([width * (0.5 + off_centre), height * 0.5])
  lines, records = [], []
  for view, pose in enumerate(poses):
    moved = similarity @ pose
    moved[:3, :3] /= scale
    # `ball` draws squares: draw one with the intrinsics of the rectangle, and crop it.
    square = ball(pose, np.array([focal, focal, *centre]) / width, width, 0.5)
    rgba = square[:height]
    name = f'{view:03d}.jpg'
    noise = np.random.default_rng(view).integers(0, 255, rgba.shape[:2] + (3,), np.uint8)
    shown = np.where(rgba[..., 3:] > 0, rgba[..., :3], noise)
    Image.fromarray(shown).save(folder / 'images' / name, quality=95)
    Image.fromarray(rgba[..., 3]).save(folder / 'masks' / f'{name}.png')
    world_to_camera = np.linalg.inv(moved @ np.diag([1.0, -1, -1, 1]))
    q, t = quaternion(world_to_camera[:3, :3]), world_to_camera[:3, 3]
    lines += [' '.join(map(str, (view + 1, *q, *t, 1, name))), '10.5 11.5 -1 20.0 21.0 7']
    records.append(
      struct.pack('<i7di', view + 1, *q, *t, 1)
      + name.encode()
      + b'\0'
      + struct.pack('<Qddqddq', 2, 10.5, 11.5, -1, 20.0, 21.0, 7)
    )
  values = {
    'PINHOLE': (focal, focal, *centre),
    'SIMPLE_PINHOLE': (focal, *centre),
    'OPENCV': (focal, focal, *centre, 0, 0, 0, 0),
    'FOV': (focal, focal, *centre, 0.1),
  }[model]
  number = {'PINHOLE': 1, 'SIMPLE_PINHOLE': 0, 'OPENCV': 4, 'FOV': 7}[model]
  sparse = folder / 'sparse/0'
  if binary:
    (sparse / 'cameras.bin').write_bytes(struct.pack(f'<QiiQQ{len(values)}d', 1, 1, number, width, height, *values))
    (sparse / 'images.bin').write_bytes(struct.pack('<Q', len(records)) + b''.join(records))
  else:
    (sparse / 'cameras.txt').write_text(f'# Cameras\n1 {model} {width} {height} ' + ' '.join(map(str, values)) + '\n')
    (sparse / 'images.txt').write_text('# Images\n# two lines each\n' + '\n'.join(lines) + '\n')
  return folder
