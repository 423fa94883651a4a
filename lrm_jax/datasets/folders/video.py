"""A video of a real object, as MVImgNet has it: COLMAP's cameras and masks -> records like those of rendered objects.

images/NAME, masks/NAME (or NAME.png), sparse/0/. What COLMAP cannot know is estimated:
- up: what is perpendicular to all cameras' x axes, which people hold level; the mean of their y axes says which way;
- the object's centre: the point nearest to the rays through the middles of the masks, by least squares;
- its size: the largest distance from the centre at which a mask's pixel sees it, which becomes RADIUS.
Then the background is cut out by the mask, and each view is cut to a square around it; its intrinsics follow, its pose
stays. The distance of the input camera is the video's own: train with keep_distance. Source: LRM, section 4.1.
"""

from pathlib import Path

import cv2
import numpy as np

from lrm_jax.datasets.folders import colmap, pictures

RADIUS = 1.5 * np.sin(np.deg2rad(25))  # world units, of the sphere around an object, as data/render.py has it


def holds(folder: Path) -> bool:
  """Returns whether a folder is an object of this layout."""
  return (
    any((folder / 'sparse/0' / f'cameras.{end}').is_file() for end in ('bin', 'txt')) and (folder / 'images').is_dir()
  )


def read(folder: Path, options: pictures.Options) -> dict:
  """Returns the record of a folder, without its uid."""
  views = colmap.read(folder / 'sparse/0')[: options.num_views]
  if len(views) < 2:
    raise ValueError(f'the COLMAP model has {len(views)} images: at least 2 are needed')
  cut = [_without_background(folder, view, options) for view in views]
  boxes = [_box(pixels[..., 3], view.name) for pixels, view in zip(cut, views)]
  poses = np.stack([view.camera_to_world for view in views])
  rotation = upright(poses)
  middles = [_ray(view, (box[:2] + box[2:]) / 2) for view, box in zip(views, boxes)]
  centre = nearest_point(poses[:, :3, 3], np.stack(middles))
  scale = RADIUS / max(_extent(view, pixels[..., 3], centre) for view, pixels in zip(views, cut))
  world = poses.copy()
  world[:, :3, :3] = rotation @ poses[:, :3, :3]
  world[:, :3, 3] = scale * (poses[:, :3, 3] - centre) @ rotation.T
  squares = [_square(pixels, view, box, options) for pixels, view, box in zip(cut, views, boxes)]
  return {
    'views': [view for view, _ in squares],
    'camera_to_world': world,
    'intrinsics': np.stack([camera for _, camera in squares]),
    'object_to_world': np.full((4, 4), np.nan),
  }


def upright(poses: np.ndarray) -> np.ndarray:
  """Returns the rotation [3, 3] of the world that makes z up, for cameras [V, 4, 4] that are held level."""
  right, up = poses[:, :3, 0], poses[:, :3, 1].mean(axis=0)
  values, vectors = np.linalg.eigh(right.T @ right)
  # All x axes in one direction leave the up open: then it is the mean of the y axes.
  z = vectors[:, 0] if values[1] > 1e-3 * values[2] else up
  z = z * np.sign(z @ up) / np.linalg.norm(z)
  x = np.cross(up if abs(z @ up) < 0.9 * np.linalg.norm(up) else poses[0, :3, 2], z)
  x /= np.linalg.norm(x)
  return np.stack([x, np.cross(z, x), z])


def nearest_point(origins: np.ndarray, directions: np.ndarray) -> np.ndarray:
  """Returns the point [3] with the least sum of squared distances to rays [V, 3]; ValueError where rays are parallel."""
  across = np.eye(3) - directions[:, :, None] * directions[:, None, :]
  system = across.sum(axis=0)
  if np.linalg.cond(system) > 1e8:
    raise ValueError('all views are from one place or in one direction: where the object is cannot be told')
  return np.linalg.solve(system, np.einsum('vij,vj->i', across, origins))


def _without_background(folder: Path, view: colmap.View, options: pictures.Options) -> np.ndarray:
  """Returns RGBA bytes [H, W, 4], undistorted, the mask for an alpha."""
  image = pictures.load(folder / 'images' / view.name, pictures.Options(background='white'))
  names = (view.name, f'{view.name}.png', f'{Path(view.name).stem}.png')
  mask = next((path for name in names if (path := folder / 'masks' / name).is_file()), None)
  if mask is None and options.background is None:
    raise ValueError(f'masks/ has none of {", ".join(names)}')
  if mask is None:
    image = pictures.load(folder / 'images' / view.name, options)
  else:
    image[..., 3] = pictures.load(mask, pictures.Options(background='black'))[..., :3].max(axis=-1)
  height, width = image.shape[:2]
  if (width, height) != view.size:
    raise ValueError(
      f'{view.name} is {width} x {height} pixels, and the COLMAP model has {view.size[0]} x {view.size[1]}'
    )
  if np.any(view.distortion):
    matrix = np.array([[view.focal[0], 0, view.centre[0] - 0.5], [0, view.focal[1], view.centre[1] - 0.5], [0, 0, 1]])
    image = cv2.undistort(image, matrix, view.distortion)
  return image


def _box(alpha, name) -> np.ndarray:
  """Returns (left, top, right, bottom) of a mask, in pixels."""
  rows, columns = np.flatnonzero((alpha > 127).any(axis=1)), np.flatnonzero((alpha > 127).any(axis=0))
  if not len(rows):
    raise ValueError(f'the mask of {name} is empty')
  return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], float)


def _ray(view: colmap.View, pixels: np.ndarray) -> np.ndarray:
  """Returns unit directions [..., 3] in the world through places (column, row) [..., 2], in pixels."""
  x, y = np.moveaxis((pixels - view.centre) / view.focal, -1, 0)
  directions = np.stack([x, -y, -np.ones_like(x)], axis=-1) @ view.camera_to_world[:3, :3].T
  return directions / np.linalg.norm(directions, axis=-1, keepdims=True)


def _extent(view: colmap.View, alpha: np.ndarray, centre: np.ndarray) -> float:
  """Returns how far from the centre, at most, the rays through a mask pass it."""
  edge = (alpha > 127) & ~(cv2.erode(alpha, np.ones((3, 3), np.uint8)) > 127)
  rows, columns = np.nonzero(edge if edge.any() else alpha > 127)
  directions = _ray(view, np.stack([columns, rows], axis=-1) + 0.5)
  towards = centre - view.camera_to_world[:3, 3]
  return float(np.linalg.norm(np.cross(directions, towards), axis=-1).max())


def _square(pixels, view, box, options) -> tuple[bytes, np.ndarray]:
  """Returns (encoded view, intrinsics [4]) of a square around the mask, of `size` pixels; beyond the picture is nothing."""
  side = int(np.ceil((box[2:] - box[:2]).max() / options.fill))
  left, top = np.floor((box[:2] + box[2:] - side) / 2).astype(int)
  height, width = pixels.shape[:2]
  square = np.zeros((side, side, 4), np.float32)
  x, y = max(left, 0), max(top, 0)
  part = pixels[y : min(top + side, height), x : min(left + side, width)].astype(np.float32) / 255
  part[..., :3] *= part[..., 3:]  # Premultiplied while it is resized.
  square[y - top : y - top + part.shape[0], x - left : x - left + part.shape[1]] = part
  how = cv2.INTER_AREA if options.size < side else cv2.INTER_LINEAR
  square = cv2.resize(square, (options.size, options.size), interpolation=how)
  square[..., :3] /= np.maximum(square[..., 3:], 1e-6)
  square[square[..., 3] < 0.5 / 255] = 0
  intrinsics = np.concatenate([view.focal, view.centre - (left, top)]) / side
  return pictures.encode(np.round(np.clip(square, 0, 1) * 255).astype(np.uint8), options.quality), intrinsics
