"""Reads videos of real objects, with COLMAP cameras and masks, as in MVImgNet.

The record has the same conventions as that of a rendered object.
Files: images/NAME; masks/NAME.png, masks/NAME, or NAME with another suffix; sparse/0/ or sparse/. COLMAP's world is
arbitrary, so these are estimated:
- up: the direction perpendicular to the x axes of all cameras, because people hold cameras level; the mean of the
  cameras' y axes gives its sign;
- the centre of the object: the point nearest to the rays through the centres of the masks, by least squares;
- the size of the object: the largest distance between the centre and a ray through a mask, which is scaled to RADIUS.
Then the mask removes the background, and each view is cropped to a square around its mask. This changes its intrinsics,
not its pose. Each video keeps its own distance to the input camera: train with keep_distance. Source: LRM, section 4.1.
"""

from pathlib import Path, PurePosixPath

import cv2
import numpy as np

from lrm_jax.datasets.folders import colmap, files, images, lens
from lrm_jax.errors import InputError
from lrm_jax.geometry import image_files

RADIUS = 1.5 * np.sin(np.deg2rad(25))  # of the sphere around an object, in world units, as in data/render.py


def holds(folder: Path) -> bool:
  """Returns whether the folder is an object in this layout."""
  return _model(folder) is not None and (folder / 'images').is_dir()


def _model(folder: Path) -> Path | None:
  """Returns the folder of the sparse model."""
  places = (folder / 'sparse/0', folder / 'sparse')
  return next((place for place in places if any((place / f'cameras.{end}').is_file() for end in ('bin', 'txt'))), None)


def read(folder: Path, options: images.Options) -> dict:
  """Returns the record of the folder, without its uid; InputError if a file is missing or damaged."""
  model = _model(folder)
  if model is None:
    raise InputError('sparse/0/ and sparse/ have no cameras.bin or cameras.txt')
  views = colmap.read(model)
  paths = {view.name: _image(folder, view.name) for view in views[: options.num_views]}
  known = _stems(folder, views)
  views = views[: options.num_views]
  if len(views) < 2:
    raise InputError(f'the COLMAP model has {len(views)} images: at least 2 are needed')
  cut = [_without_background(paths[view.name], _mask(folder, view.name, known), view, options) for view in views]
  boxes = [_box(pixels[..., 3], view.name) for pixels, view in zip(cut, views)]
  poses = np.stack([view.camera_to_world for view in views])
  rotation = upright(poses)
  rays = [_ray(view, (box[:2] + box[2:]) / 2) for view, box in zip(views, boxes)]
  centre = nearest_point(poses[:, :3, 3], np.stack(rays))
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
  """Returns the rotation [3, 3] of the world after which z is up, for cameras [V, 4, 4] that are held level."""
  right, up = poses[:, :3, 0], poses[:, :3, 1].mean(axis=0)
  values, vectors = np.linalg.eigh(right.T @ right)
  # If all x axes are parallel, many directions are perpendicular to them: use the mean of the y axes.
  z = vectors[:, 0] if values[1] > 1e-3 * values[2] else up
  z = z * np.sign(z @ up) / np.linalg.norm(z)
  x = np.cross(up if abs(z @ up) < 0.9 * np.linalg.norm(up) else poses[0, :3, 2], z)
  x /= np.linalg.norm(x)
  return np.stack([x, np.cross(z, x), z])


def nearest_point(origins: np.ndarray, directions: np.ndarray) -> np.ndarray:
  """Returns the point [3] with the least sum of squared distances to rays [V, 3]; InputError if they are parallel."""
  across = np.eye(3) - directions[:, :, None] * directions[:, None, :]
  system = across.sum(axis=0)
  if np.linalg.cond(system) > 1e8:
    raise InputError('all views have the same position or direction, so the position of the object cannot be estimated')
  return np.linalg.solve(system, np.einsum('vij,vj->i', across, origins))


def _image(folder: Path, name: str) -> Path:
  path = files.find(folder / 'images', name)
  if path is None:
    raise InputError(f'images/ has no {name}, which the COLMAP model names')
  return path


def _stems(folder: Path, views: list[colmap.View]) -> dict[str, set[str]]:
  """Returns {stem: names without suffix of the images that have it}, of all images of the model or in images/."""
  names = {view.name.replace('\\', '/') for view in views}
  names |= {path.relative_to(folder / 'images').as_posix() for path in (folder / 'images').rglob('*.*')}
  stems: dict[str, set[str]] = {}
  for path in map(PurePosixPath, names):
    stems.setdefault(path.stem.casefold(), set()).add(str(path.with_suffix('')).casefold())
  return stems


def _mask(folder: Path, name: str, stems: dict[str, set[str]]) -> Path | None:
  """Returns the mask of an image, or None: NAME.png, as COLMAP names it, NAME, or its stem with any suffix.

  The stem without its sub-folder is used only if no image of another sub-folder, so of another camera, shares it.
  """
  path = PurePosixPath(name.replace('\\', '/'))
  found = files.find(folder / 'masks', str(path), ('.png', ''))
  found = found or files.find(folder / 'masks', str(path.with_suffix('')), files.IMAGE_SUFFIXES)
  if found is None and len(stems[path.stem.casefold()]) == 1:
    found = files.find(folder / 'masks', f'{path.name}.png') or files.find(
      folder / 'masks', path.stem, files.IMAGE_SUFFIXES
    )
  return found


def _without_background(path: Path, mask: Path | None, view: colmap.View, options: images.Options) -> np.ndarray:
  """Returns RGBA bytes [H, W, 4], without lens distortion, with the mask as alpha."""
  if mask is None and options.background is None and not image_files.has_alpha(path):
    name = PurePosixPath(view.name.replace('\\', '/'))
    raise InputError(
      f'masks/ has no mask for {view.name}: none of {name}.png, {name}, {name.with_suffix(".png")} exists'
    )
  image = images.load(path, options, mask)
  height, width = image.shape[:2]
  if (width, height) != view.size:
    raise InputError(
      f'{view.name} is {width} x {height} pixels, but {view.size[0]} x {view.size[1]} in the COLMAP model'
    )
  return lens.undistort(image, view.focal, view.centre, view.distortion) if np.any(view.distortion) else image


def _box(alpha, name) -> np.ndarray:
  """Returns the bounding box (left, top, right, bottom) of a mask, in pixels."""
  rows, columns = np.flatnonzero((alpha > 127).any(axis=1)), np.flatnonzero((alpha > 127).any(axis=0))
  if not len(rows):
    raise InputError(f'the mask of {name} is empty')
  return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], float)


def _ray(view: colmap.View, pixels: np.ndarray) -> np.ndarray:
  """Returns unit directions [..., 3], in the world, of the rays through points (column, row) [..., 2] in pixels."""
  x, y = np.moveaxis((pixels - view.centre) / view.focal, -1, 0)
  directions = np.stack([x, -y, -np.ones_like(x)], axis=-1) @ view.camera_to_world[:3, :3].T
  return directions / np.linalg.norm(directions, axis=-1, keepdims=True)


def _extent(view: colmap.View, alpha: np.ndarray, centre: np.ndarray) -> float:
  """Returns the largest distance between the centre and the rays through a mask."""
  edge = (alpha > 127) & ~(cv2.erode(alpha, np.ones((3, 3), np.uint8)) > 127)
  rows, columns = np.nonzero(edge if edge.any() else alpha > 127)
  directions = _ray(view, np.stack([columns, rows], axis=-1) + 0.5)
  towards = centre - view.camera_to_world[:3, 3]
  return float(np.linalg.norm(np.cross(directions, towards), axis=-1).max())


def _square(pixels, view, box, options) -> tuple[bytes, np.ndarray]:
  """Returns (encoded view, its intrinsics [4]): a square around the mask, resized to `options.size` pixels.

  Outside of the image it is transparent.
  """
  side = int(np.ceil((box[2:] - box[:2]).max() / options.fill))
  left, top = np.floor((box[:2] + box[2:] - side) / 2).astype(int)
  height, width = pixels.shape[:2]
  square = np.zeros((side, side, 4), np.float32)
  x, y = max(left, 0), max(top, 0)
  part = pixels[y : min(top + side, height), x : min(left + side, width)].astype(np.float32) / 255
  part[..., :3] *= part[..., 3:]  # Resize premultiplied colours, so that the background does not bleed in.
  square[y - top : y - top + part.shape[0], x - left : x - left + part.shape[1]] = part
  interpolation = cv2.INTER_AREA if options.size < side else cv2.INTER_LINEAR
  square = cv2.resize(square, (options.size, options.size), interpolation=interpolation)
  square[..., :3] /= np.maximum(square[..., 3:], 1e-6)
  square[square[..., 3] < 0.5 / 255] = 0
  intrinsics = np.concatenate([view.focal, view.centre - (left, top)]) / side
  return images.encode(np.round(np.clip(square, 0, 1) * 255).astype(np.uint8), options.quality), intrinsics
