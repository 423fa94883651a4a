"""Reads the still scene of a glTF 2.0 file as surfaces: nodes, instances, primitives, morph targets and skins.

The pose is that of the nodes in the file; animations are ignored, as are cameras, lights, points and lines.
Source: Khronos, glTF 2.0 specification, sections 3.5 (scenes, nodes) and 3.7 (meshes, skins, instantiation).
"""

import dataclasses
from pathlib import Path

import numpy as np

from .gltf_file import GltfFile
from .gltf_materials import Materials
from .surfaces import Surface, unit

_TRIANGLES, _STRIP, _FAN = 4, 5, 6


def read(path: Path) -> list[Surface]:
  """Returns the surfaces of a file, in its axes; ValueError if it is damaged or needs what is not supported."""
  try:
    return _Scene(GltfFile(path)).surfaces()
  except (LookupError, TypeError, AttributeError, OverflowError) as error:
    raise ValueError(f'the file is not valid glTF 2.0 ({type(error).__name__}: {error})') from error


class _Scene:
  def __init__(self, file: GltfFile):
    self._file, self._nodes = file, file.items('nodes')
    self._materials = Materials(file)
    self._globals: dict[int, np.ndarray] = {}

  def surfaces(self) -> list[Surface]:
    """Returns the surfaces of the default scene; of all nodes if there is no scene."""
    self._materials.check_images()
    children = {child for node in self._nodes for child in node.get('children', [])}
    roots = [number for number in range(len(self._nodes)) if number not in children]
    if len(roots) < len(self._nodes) and not roots:
      raise ValueError('the nodes of the file form a cycle')
    for root in roots:
      self._place(root)
    scenes = self._file.items('scenes')
    drawn = scenes[self._file.document.get('scene', 0)].get('nodes', []) if scenes else roots
    return [surface for number in drawn for surface in self._node(number)]

  def _place(self, root: int) -> None:
    """Computes the global transforms of a node and of its descendants."""
    todo = [(root, np.eye(4))]
    while todo:
      number, parent = todo.pop()
      if number in self._globals:
        raise ValueError(f'node {number} of the file has two parents')
      self._globals[number] = parent @ local_transform(self._nodes[number])
      todo += [(child, self._globals[number]) for child in self._nodes[number].get('children', [])]

  def _node(self, root: int):
    """Yields the surfaces of a node and of its descendants."""
    todo = [root]
    while todo:
      number = todo.pop()
      node = self._nodes[number]
      if not node.get('extensions', {}).get('KHR_node_visibility', {}).get('visible', True):
        continue
      if 'mesh' in node:
        yield from self._mesh(node, self._globals[number])
      todo += reversed(node.get('children', []))

  def _mesh(self, node: dict, transform: np.ndarray):
    """Yields the surfaces of the mesh of a node, one for each primitive and instance."""
    mesh = self._file.items('meshes')[node['mesh']]
    weights = node.get('weights', mesh.get('weights', []))
    instancing = node.get('extensions', {}).get('EXT_mesh_gpu_instancing')
    transforms = transform @ self._instances(instancing) if instancing else transform[None]
    for primitive in mesh['primitives']:
      if (shape := self._primitive(primitive, weights)) is None:
        continue
      surface, joints = shape
      if 'skin' in node and joints is not None:
        # The joints alone place a skinned mesh; the transform of its node is ignored.
        yield moved(surface, self._skin(node['skin'], *joints, transform))
      else:
        yield from (moved(surface, matrix) for matrix in transforms)

  def _instances(self, instancing: dict) -> np.ndarray:
    """Returns the transforms [N, 4, 4] of EXT_mesh_gpu_instancing."""
    values = {name: self._file.accessor(index) for name, index in instancing['attributes'].items()}
    count = max(map(len, values.values()), default=0)
    return compose(
      values.get('TRANSLATION', np.zeros((count, 3))),
      values.get('ROTATION', np.tile([0.0, 0, 0, 1], (count, 1))),
      values.get('SCALE', np.ones((count, 3))),
    )

  def _primitive(self, primitive: dict, weights: list):
    """Returns (surface, None or (joints, weights)) of a primitive in its own axes; None if it has no triangles."""
    mode = primitive.get('mode', _TRIANGLES)
    if mode not in (_TRIANGLES, _STRIP, _FAN):
      return None
    read = self._file.accessor
    decoded = self._file.draco(primitive) or {}
    names = primitive['attributes']
    values = {name: decoded[name] if name in decoded else read(index) for name, index in names.items()}
    points = values['POSITION'].astype(np.float64)
    count, precision = len(points), self._precision(names['POSITION'], points)
    for name, array in values.items():
      if len(array) != count:
        raise ValueError(f'{name} of the file has {len(array)} values for {count} vertices')
    if decoded:
      indices = decoded['indices']
    else:
      indices = read(primitive['indices']) if 'indices' in primitive else np.arange(count)
    triangles = _triangles(mode, indices.reshape(-1).astype(np.int64))
    if not len(triangles):
      return None
    if triangles.max() >= count:
      raise ValueError(f'a triangle of the file uses vertex {triangles.max()} of {count}')
    for weight, target in zip(weights, primitive.get('targets', [])):
      if weight:
        for name, index in target.items():
          if name in values:
            values[name] = values[name] + weight * read(index)
    surface = Surface(
      points=values['POSITION'].astype(np.float64),
      triangles=triangles,
      material=self._materials.material(primitive.get('material')),
      normals=values.get('NORMAL'),
      uvs={int(name[9:]): values[name] for name in values if name.startswith('TEXCOORD_')},
      colors=_rgba(values['COLOR_0']) if 'COLOR_0' in values else None,
      precision=precision,
    )
    sets = sorted(name for name in values if name.startswith('JOINTS_'))
    if not sets:
      return surface, None
    joints = np.concatenate([values[name] for name in sets], axis=1).astype(int)
    return surface, (joints, np.concatenate([values[name.replace('JOINTS', 'WEIGHTS')] for name in sets], axis=1))

  def _precision(self, index: int, points: np.ndarray) -> float:
    """Returns the distance between neighbouring numbers at the farthest point, if positions are single precision."""
    if self._file.items('accessors')[index]['componentType'] != 5126 or not points.size:
      return 0.0
    farthest = np.abs(points).max()
    return float(np.spacing(np.float32(farthest))) if np.isfinite(farthest) else 0.0

  def _skin(self, index: int, joints: np.ndarray, weights: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Returns the transform [K, 4, 4] of each vertex; that of the node, `own`, if the vertex has no weights."""
    skin = self._file.items('skins')[index]
    bones = np.stack([self._globals[joint] for joint in skin['joints']])
    if 'inverseBindMatrices' in skin:
      inverse = self._file.accessor(skin['inverseBindMatrices']).reshape(-1, 4, 4).swapaxes(1, 2)
      bones = bones @ inverse[: len(bones)]
    total = weights.sum(axis=1, keepdims=True)
    weights = weights / np.where(total > 0, total, 1.0)
    if joints[weights > 0].max(initial=0) >= len(bones):
      raise ValueError(f'a vertex of the file uses joint {joints[weights > 0].max()} of {len(bones)}')
    joints = np.where(weights > 0, joints, 0)
    blended = np.zeros((len(joints), 4, 4))
    for joint, weight in zip(joints.T, weights.T):
      blended += weight[:, None, None] * bones[joint]
    return np.where((total > 0)[..., None], blended, own)


def local_transform(node: dict) -> np.ndarray:
  """Returns the matrix [4, 4] of a node, from its `matrix` or from translation, rotation and scale."""
  if 'matrix' in node:
    return np.array(node['matrix'], float).reshape(4, 4).T
  return compose(
    np.array([node.get('translation', (0, 0, 0))], float),
    np.array([node.get('rotation', (0, 0, 0, 1))], float),
    np.array([node.get('scale', (1, 1, 1))], float),
  )[0]


def compose(translations: np.ndarray, rotations: np.ndarray, scales: np.ndarray) -> np.ndarray:
  """Returns matrices [N, 4, 4] that scale [N, 3], then rotate by quaternions x, y, z, w [N, 4], then move [N, 3]."""
  x, y, z, w = unit(rotations.astype(float)).T
  rows = [
    [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
    [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
    [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
  ]
  matrices = np.tile(np.eye(4), (len(translations), 1, 1))
  matrices[:, :3, :3] = np.moveaxis(np.array(rows), -1, 0) * scales[:, None, :]
  matrices[:, :3, 3] = translations
  return matrices


def moved(surface: Surface, matrix: np.ndarray) -> Surface:
  """Returns a surface transformed by a matrix [4, 4], or by one for each vertex [K, 4, 4].

  A mirrored surface gets the opposite winding, so that its front stays its front.
  """
  linear, shift = matrix[..., :3, :3], matrix[..., :3, 3]
  points = np.einsum('...ij,...j->...i', linear, surface.points) + shift
  normals = surface.normals
  if normals is not None:
    # The cofactors are the inverse transpose times the determinant; they exist for singular matrices, too.
    rows = [np.cross(linear[..., i - 2, :], linear[..., i - 1, :]) for i in range(3)]
    normals = unit(np.einsum('...ij,...j->...i', np.stack(rows, axis=-2), normals))
  triangles = surface.triangles
  if np.median(np.linalg.det(linear)) < 0:
    triangles = triangles[:, ::-1]
    normals = None if normals is None else -normals
  precision = surface.precision * float(np.abs(linear).sum(axis=-1).max(initial=0.0))
  return dataclasses.replace(surface, points=points, normals=normals, triangles=triangles, precision=precision)


def _triangles(mode: int, indices: np.ndarray) -> np.ndarray:
  """Returns the triangles [T, 3] of a list, a strip or a fan of vertices, in the order of the specification."""
  if mode == _TRIANGLES:
    return indices[: len(indices) // 3 * 3].reshape(-1, 3)
  if len(indices) < 3:
    return np.zeros((0, 3), np.int64)
  number = np.arange(len(indices) - 2)
  if mode == _FAN:
    corners = np.stack([number + 1, number + 2, np.zeros_like(number)], axis=-1)
  else:
    odd = number % 2
    corners = np.stack([number, number + 1 + odd, number + 2 - odd], axis=-1)
  return indices[corners]


def _rgba(colors: np.ndarray) -> np.ndarray:
  """Returns colours [K, 3 or 4] with alpha, within 0 and 1. All integers are normalised."""
  colors = colors / np.iinfo(colors.dtype).max if colors.dtype.kind in 'iu' else colors
  return np.clip(np.pad(colors, ((0, 0), (0, 4 - colors.shape[1])), constant_values=1.0), 0, 1)
