"""Measures the tables of data/rendering/reflectance.py: the light that flat patches reflect in Cycles.

  .venv-render/bin/python bench/reflectance.py OUT.npy     # 35 s on 2 cores

OUT is [kind, cosine 1, 0.9 ... 0.1, roughness 0, 0.1 ... 1]; kinds are dielectrics and metals of base colour 0, 0.5, 1.
"""

from pathlib import Path
import sys
import tempfile

import bpy
import numpy as np

KINDS = [(metallic, color) for metallic in (0, 1) for color in (0.0, 0.5, 1.0)]
COSINES, ROUGHNESS = np.arange(10, 0, -1) / 10, np.arange(11) / 10


def set_up():
  """Makes a row of square patches of side 1 for each kind, in even light, and returns the camera."""
  bpy.ops.wm.read_factory_settings(use_empty=True)
  scene = bpy.context.scene
  scene.world = bpy.data.worlds.new('even light')
  scene.world.use_nodes = True
  scene.world.node_tree.nodes['Background'].inputs['Color'].default_value = (1, 1, 1, 1)
  for y, (metallic, color) in enumerate(KINDS):
    for x, roughness in enumerate(ROUGHNESS):
      mesh = bpy.data.meshes.new('patch')
      mesh.from_pydata([(x, y, 0), (x + 1, y, 0), (x + 1, y + 1, 0), (x, y + 1, 0)], [], [(0, 1, 2, 3)])
      scene.collection.objects.link(bpy.data.objects.new('patch', mesh))
      material = bpy.data.materials.new('patch')
      material.use_nodes = True
      inputs = material.node_tree.nodes['Principled BSDF'].inputs
      inputs['Base Color'].default_value = (color, color, color, 1)
      inputs['Metallic'].default_value, inputs['Roughness'].default_value = metallic, float(roughness)
      mesh.materials.append(material)
  scene.render.engine = 'CYCLES'
  scene.cycles.use_denoising = scene.cycles.use_adaptive_sampling = False
  scene.view_settings.view_transform = 'Raw'
  scene.render.image_settings.file_format, scene.render.image_settings.color_depth = 'OPEN_EXR', '32'
  lens = bpy.data.cameras.new('camera')
  lens.type, lens.ortho_scale, lens.sensor_fit = 'ORTHO', len(ROUGHNESS), 'HORIZONTAL'
  camera = scene.camera = bpy.data.objects.new('camera', lens)
  scene.collection.objects.link(camera)
  return camera


def measure(camera, cosine: float, path: Path) -> np.ndarray:
  """Returns the brightness [kind, roughness] seen at an angle to the normal."""
  scene, scale = bpy.context.scene, 4 * int(np.ceil(1 / cosine))  # pixels per unit
  width, height = len(ROUGHNESS) * scale, (len(KINDS) + 1) * scale
  scene.render.resolution_x, scene.render.resolution_y = width, height
  scene.cycles.samples = 16384 // scale**2
  angle, middle = np.arccos(cosine), len(KINDS) / 2
  camera.rotation_euler = (angle, 0, 0)
  camera.location = (len(ROUGHNESS) / 2, middle - 30 * np.sin(angle), 30 * cosine)
  scene.render.filepath = str(path)
  bpy.ops.render.render(write_still=True)
  image = bpy.data.images.load(str(path))
  pixels = np.array(image.pixels[:]).reshape(height, width, 4)[..., 0]
  bpy.data.images.remove(image)
  found = np.zeros((len(KINDS), len(ROUGHNESS)))
  for kind, column in np.ndindex(found.shape):
    y, x = round((kind + 0.5 - middle) * cosine * scale + height / 2), (column + 0.5) * scale
    half = max(1, int(cosine * scale / 4))
    found[kind, column] = pixels[y - half : y + half, int(x - scale / 4) : int(x + scale / 4)].mean()
  return found


if __name__ == '__main__':
  camera = set_up()
  with tempfile.TemporaryDirectory() as folder:
    found = [measure(camera, float(cosine), Path(folder) / 'view.exr') for cosine in COSINES]
  np.save(sys.argv[1], np.stack(found, axis=1))
