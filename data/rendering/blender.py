"""The engine `cycles`: Blender's path tracer, through `bpy`.

Runs in Blender's Python, which has NumPy and Pillow, but not the dependencies of lrm_jax.
"""

import contextlib
import os
from pathlib import Path
import re
import sys
import tempfile

import bpy
import mathutils
from mathutils import bvhtree
import numpy as np
from PIL import Image

from . import gltf_file, mtl
from .presets import Light
from .scene import Geometry

_FINEST = 1e-3  # the largest rounding error of positions in single precision, as a share of the size of the object


class Cycles:
  """Implements `scene.Engine` with Cycles. `samples` is the number of rays per pixel; `threads` = 0 uses all cores."""

  name = 'cycles'
  kinds = ('.glb', '.gltf', '.obj', '.fbx')
  z_up = ('.fbx',)

  def __init__(self, *, samples: int, threads: int = 0, seed: int = 0):
    self._samples, self._threads, self._seed = samples, threads, seed
    self._tree = None  # (vertices, triangles), replaced by a BVHTree when it is first needed.
    self._culled = np.zeros(0, bool)  # Whether the backs of triangles are invisible.

  def load(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
    kind = path.suffix.lower()
    with quiet():
      self.clear()
      load = {
        '.glb': bpy.ops.import_scene.gltf,
        '.gltf': bpy.ops.import_scene.gltf,
        '.obj': bpy.ops.wm.obj_import,
        '.fbx': bpy.ops.import_scene.fbx,
      }[kind]
      try:
        load(filepath=str(path))
      except RuntimeError as error:
        if unknown := re.search(r'Extension (\w+) is not available', str(error)):
          raise gltf_file.refusal(unknown[1], self.name) from error
        raise
    for image in bpy.data.images:
      if image.source == 'FILE' and 0 in image.size[:]:
        raise ValueError(f'texture {image.name} cannot be read or has no pixels')
    if kind == '.obj':
      _set_opacity(path)
    if kind in ('.glb', '.gltf') and gltf_file.DRACO in gltf_file.read_document(path)[0].get('extensionsUsed', []):
      _check_decoded()
    for material in bpy.data.materials:
      if material.use_backface_culling:  # The importer sets it for glTF materials that are not double-sided.
        _hide_backs(material)
    return self.take_scene()

  def clear(self) -> None:
    """Removes everything from the scene."""
    bpy.ops.wm.read_factory_settings(use_empty=True)

  def take_scene(self) -> tuple[np.ndarray, np.ndarray]:
    """Prepares to render the meshes that Blender has loaded; returns their vertices and triangles as `load` does."""
    vertices, triangles, self._culled = _triangles(bpy.context.evaluated_depsgraph_get())
    _check_precision(vertices)
    self._tree = (vertices, triangles)
    self._set_up(bpy.context.scene, vertices)
    return vertices, triangles

  def light(self, light: Light) -> None:
    scene = bpy.context.scene
    scene.world = bpy.data.worlds.new('even light')
    scene.world.use_nodes = True
    background = scene.world.node_tree.nodes['Background']
    background.inputs['Color'].default_value = (1.0, 1.0, 1.0, 1.0)
    background.inputs['Strength'].default_value = light.ambient
    for direction, strength in light.suns:
      sun = bpy.data.lights.new('sun', 'SUN')
      sun.energy = np.pi * strength  # Irradiance: a white surface facing the sun then has the brightness `strength`.
      sun.angle = np.deg2rad(5)
      lamp = bpy.data.objects.new('sun', sun)
      lamp.rotation_mode = 'QUATERNION'
      lamp.rotation_quaternion = mathutils.Vector(direction).to_track_quat('Z', 'Y')
      scene.collection.objects.link(lamp)

  def render(self, pose: np.ndarray, fov: float, size: int) -> np.ndarray:
    scene = bpy.context.scene
    scene.camera.matrix_world = pose.T.tolist()
    scene.camera.data.angle = np.deg2rad(fov)
    scene.render.resolution_x = scene.render.resolution_y = size
    with tempfile.TemporaryDirectory() as folder:
      scene.render.filepath = str(Path(folder) / 'view.png')
      with quiet():
        bpy.ops.render.render(write_still=True)
      with Image.open(scene.render.filepath) as image:
        return np.array(image.convert('RGBA'))

  def geometry(self, pose: np.ndarray, fov: float, size: int) -> Geometry:
    if isinstance(self._tree, tuple):
      vertices, triangles = self._tree
      self._tree = bvhtree.BVHTree.FromPolygons(vertices.tolist(), triangles.tolist(), all_triangles=True)
    place = (np.arange(size) + 0.5) / size * 2 - 1
    x, y = np.meshgrid(place * np.tan(np.deg2rad(fov) / 2), -place * np.tan(np.deg2rad(fov) / 2))
    directions = np.stack([x, y, -np.ones_like(x)], axis=-1) @ pose[:3, :3].T
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    distance, normals = np.zeros((size, size), np.float32), np.zeros((size, size, 3), np.float32)
    origin = mathutils.Vector(pose[:3, 3])
    for row, column in np.ndindex(size, size):
      direction = directions[row, column]
      hit, normal, length = self._first_hit(origin, mathutils.Vector(direction))
      if hit is not None:
        distance[row, column] = length
        normals[row, column] = np.array(normal) * (-1 if np.dot(normal, direction) > 0 else 1)
    return Geometry(distance, normals)

  def _first_hit(self, origin, direction):
    """Returns (point, normal, distance) of the first visible surface on a ray; (None, None, None) if there is none."""
    start = origin
    while True:
      hit, normal, triangle, _ = self._tree.ray_cast(start, direction)
      if hit is None:
        return None, None, None
      length = (hit - origin).length
      if not (self._culled[triangle] and normal.dot(direction) > 0):
        return hit, normal, length
      start = hit + direction * (1e-5 * length)

  def describe(self) -> dict:
    return {'samples': self._samples, 'blender': bpy.app.version_string}

  def _set_up(self, scene, vertices) -> None:
    """Sets up path tracing on the CPU, a transparent background, the view transform Standard, and a camera."""
    for thing in [thing for thing in scene.objects if thing.type in ('LIGHT', 'CAMERA')]:
      bpy.data.objects.remove(thing, do_unlink=True)
    scene.render.engine = 'CYCLES'
    scene.cycles.device = 'CPU'
    scene.cycles.samples = self._samples
    scene.cycles.use_denoising = False
    scene.cycles.use_adaptive_sampling = False
    scene.cycles.seed = self._seed
    scene.cycles.max_bounces = 4
    scene.render.film_transparent = True
    scene.render.use_persistent_data = True
    scene.render.resolution_percentage = 100
    scene.render.image_settings.file_format = 'PNG'
    scene.render.image_settings.color_mode = 'RGBA'
    scene.render.image_settings.color_depth = '8'
    scene.render.image_settings.compression = 0
    if self._threads:
      scene.render.threads_mode, scene.render.threads = 'FIXED', self._threads
    scene.view_settings.view_transform = 'Standard'
    extent = float(np.ptp(vertices, axis=0).max()) if len(vertices) else 1.0
    lens = bpy.data.cameras.new('camera')
    lens.sensor_fit = 'HORIZONTAL'
    lens.clip_start, lens.clip_end = 0.01 * extent, 100.0 * extent
    scene.camera = bpy.data.objects.new('camera', lens)
    scene.collection.objects.link(scene.camera)


def _triangles(depsgraph) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns (vertices [K, 3], triangles [T, 3], culled [T]) of all visible meshes of a scene, in world coordinates.

  `culled` tells whether the back of a triangle is invisible.
  """
  vertices, triangles, culled, count = [np.empty((0, 3))], [np.empty((0, 3), int)], [np.empty(0, bool)], 0
  for instance in depsgraph.object_instances:
    if instance.object.type != 'MESH' or not instance.show_self:
      continue
    mesh = instance.object.to_mesh()
    points = np.empty(3 * len(mesh.vertices), np.float32)
    mesh.vertices.foreach_get('co', points)
    mesh.calc_loop_triangles()
    corners = np.empty(3 * len(mesh.loop_triangles), np.int32)
    mesh.loop_triangles.foreach_get('vertices', corners)
    numbers = np.empty(len(mesh.loop_triangles), np.int32)
    mesh.loop_triangles.foreach_get('material_index', numbers)
    hidden = np.array([bool(material and material.use_backface_culling) for material in mesh.materials] or [False])
    matrix = np.array(instance.matrix_world)
    vertices.append(points.reshape(-1, 3) @ matrix[:3, :3].T + matrix[:3, 3])
    corners = corners.reshape(-1, 3)
    triangles.append((corners[:, ::-1] if np.linalg.det(matrix[:3, :3]) < 0 else corners) + count)
    culled.append(hidden[np.minimum(numbers, len(hidden) - 1)])
    count += len(mesh.vertices)
    instance.object.to_mesh_clear()
  return np.concatenate(vertices), np.concatenate(triangles), np.concatenate(culled)


def _check_precision(vertices: np.ndarray) -> None:
  """Raises ValueError if the object is so far from the origin that Blender's single precision distorts its views."""
  if not len(vertices) or not np.all(np.isfinite(vertices)):
    return
  extent, farthest = float(np.ptp(vertices, axis=0).max()), float(np.abs(vertices).max())
  step = float(np.spacing(np.float32(farthest)))
  if (extent > 0 and step > _FINEST * extent) or (extent == 0 and farthest > 1e3):
    raise ValueError(
      f'the object is {farthest:.2g} from the origin, where single precision has steps of {step:.2g}, too coarse for '
      'its size: move it to the origin, or use --engine=raster'
    )


def _check_decoded() -> None:
  """Raises ValueError if a mesh has triangles at one point: the importer makes zeros of Draco data that are damaged."""
  for mesh in bpy.data.meshes:
    points = np.empty(3 * len(mesh.vertices), np.float32)
    mesh.vertices.foreach_get('co', points)
    mesh.calc_loop_triangles()
    corners = np.empty(3 * len(mesh.loop_triangles), np.int32)
    mesh.loop_triangles.foreach_get('vertices', corners)
    if (points.reshape(-1, 3)[corners.reshape(-1, 3)] == 0).all(axis=(1, 2)).any() or not len(corners):
      raise gltf_file.damaged_draco('Blender cannot decode them')


def _hide_backs(material) -> None:
  """Makes the back of a material transparent; Cycles ignores the setting of the material."""
  tree = material.node_tree
  for output in [node for node in tree.nodes if node.type == 'OUTPUT_MATERIAL' and node.inputs['Surface'].links]:
    surface = output.inputs['Surface'].links[0].from_socket
    mix, backs = tree.nodes.new('ShaderNodeMixShader'), tree.nodes.new('ShaderNodeNewGeometry')
    tree.links.new(backs.outputs['Backfacing'], mix.inputs[0])
    tree.links.new(surface, mix.inputs[1])
    tree.links.new(tree.nodes.new('ShaderNodeBsdfTransparent').outputs[0], mix.inputs[2])
    tree.links.new(mix.outputs[0], output.inputs['Surface'])


def _set_opacity(path: Path) -> None:
  """Sets the opacity that material libraries give by `Tr`, which Blender's importer ignores."""
  for line in mtl.text(path).splitlines():
    if not line.startswith('mtllib '):
      continue
    try:
      library = mtl.find(line.split(maxsplit=1)[1].strip(), path.parent)
    except ValueError:
      continue  # The importer does without it, too.
    if re.search(r'^\s*Tr\s', mtl.text(library), re.IGNORECASE | re.MULTILINE):
      for name, material in mtl.read(library).items():
        if material.base_color[3] < 1 and (made := bpy.data.materials.get(name)):
          made.node_tree.nodes['Principled BSDF'].inputs['Alpha'].default_value = material.base_color[3]


@contextlib.contextmanager
def quiet():
  """Redirects file descriptor 1 to /dev/null, because Blender writes its progress there, not to sys.stdout."""
  sys.stdout.flush()
  stdout = os.dup(1)
  with open(os.devnull, 'wb') as null:
    os.dup2(null.fileno(), 1)
  try:
    yield
  finally:
    os.dup2(stdout, 1)
    os.close(stdout)
