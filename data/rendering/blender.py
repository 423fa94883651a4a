"""The engine `cycles`: Blender's path tracer, through `bpy`.

Runs in Blender's Python, which has NumPy and Pillow, but not the dependencies of lrm_jax.
"""

import contextlib
import os
from pathlib import Path
import sys
import tempfile

import bpy
import mathutils
from mathutils import bvhtree
import numpy as np
from PIL import Image

from .presets import Light
from .scene import Geometry


class Cycles:
  """Implements `scene.Engine` with Cycles. `samples` is the number of rays per pixel; `threads` = 0 uses all cores."""

  name = 'cycles'
  kinds = ('.glb', '.gltf', '.obj', '.fbx')

  def __init__(self, *, samples: int, threads: int = 0, seed: int = 0):
    self._samples, self._threads, self._seed = samples, threads, seed
    self._tree = None  # (vertices, triangles), replaced by a BVHTree when it is first needed.

  def load(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
    with _quiet():
      bpy.ops.wm.read_factory_settings(use_empty=True)
      load = {
        '.glb': bpy.ops.import_scene.gltf,
        '.gltf': bpy.ops.import_scene.gltf,
        '.obj': bpy.ops.wm.obj_import,
        '.fbx': bpy.ops.import_scene.fbx,
      }[path.suffix.lower()]
      load(filepath=str(path))
    for image in bpy.data.images:
      if image.source == 'FILE' and 0 in image.size[:]:
        raise ValueError(f'texture {image.name} cannot be read or has no pixels')
    vertices, triangles = _triangles(bpy.context.evaluated_depsgraph_get())
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
      with _quiet():
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
      hit, normal, _, length = self._tree.ray_cast(origin, mathutils.Vector(direction))
      if hit is not None:
        distance[row, column] = length
        normals[row, column] = np.array(normal) * (-1 if np.dot(normal, direction) > 0 else 1)
    return Geometry(distance, normals)

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


def _triangles(depsgraph) -> tuple[np.ndarray, np.ndarray]:
  """Returns (vertices [K, 3], triangles [T, 3]) of all visible meshes of a scene, in world coordinates."""
  vertices, triangles, count = [np.empty((0, 3))], [np.empty((0, 3), int)], 0
  for instance in depsgraph.object_instances:
    if instance.object.type != 'MESH' or not instance.show_self:
      continue
    mesh = instance.object.to_mesh()
    points = np.empty(3 * len(mesh.vertices), np.float32)
    mesh.vertices.foreach_get('co', points)
    mesh.calc_loop_triangles()
    corners = np.empty(3 * len(mesh.loop_triangles), np.int32)
    mesh.loop_triangles.foreach_get('vertices', corners)
    matrix = np.array(instance.matrix_world)
    vertices.append(points.reshape(-1, 3) @ matrix[:3, :3].T + matrix[:3, 3])
    triangles.append(corners.reshape(-1, 3) + count)
    count += len(mesh.vertices)
    instance.object.to_mesh_clear()
  return np.concatenate(vertices), np.concatenate(triangles)


@contextlib.contextmanager
def _quiet():
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
