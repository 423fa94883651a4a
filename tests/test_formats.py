"""Every format in the programs that open it: held-out objects and photographs, in trimesh, usd-core and Blender.

The photographs are those of scikit-image: coffee, chelsea, rocket, camera (CC0) and astronaut (NASA, public domain).
"""

import json
from pathlib import Path
import subprocess

import numpy as np
from PIL import Image
import pytest
import skimage.data
import trimesh

import lrm_jax
from lrm_jax.datasets.views import load_views
from lrm_jax.reconstruction import mesh_files

ROOT = Path(__file__).resolve().parents[1]
BLENDER = ROOT / '.venv-render/bin/python'
PHOTOGRAPHS = 'coffee', 'chelsea', 'astronaut', 'rocket', 'camera'
OBJECTS = 10
FACES = 6_000
SIZE = 96
TEXTURED = 0, 1, OBJECTS  # also tested with a texture: two objects and a photograph

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def model():
  return lrm_jax.from_pretrained('quickstart')


@pytest.fixture(scope='module')
def things(model, tmp_path_factory):
  """(name, planes [1, 3, P, P, C]) of the objects and the photographs."""
  folder = tmp_path_factory.mktemp('photographs')
  views = load_views('embedded', 'test', image_size=model.image_size, size=16, indices=range(OBJECTS))
  found = [(f'object {number}', model.encode(image[None])) for number, image in enumerate(views['image'])]
  for name in PHOTOGRAPHS:
    Image.fromarray(getattr(skimage.data, name)()).convert('RGB').save(folder / f'{name}.png')
    prepared = model.prepare(folder / f'{name}.png', remove_background=True)
    found.append((name, model.encode(prepared.image[None])))
  return found


@pytest.fixture(scope='module')
def meshes(model, things):
  """{(number of the thing, 'vertices' or 'texture'): mesh}."""
  found = {}
  for number, (_, planes) in enumerate(things):
    for kind in ('vertices', 'texture') if number in TEXTURED else ('vertices',):
      [found[number, kind]] = model.mesh(planes, faces=FACES, texture_size=256 if kind == 'texture' else None)
  return found


def test_meshes_are_watertight_and_open_in_every_format(things, meshes, tmp_path):
  for (number, kind), mesh in meshes.items():
    assert mesh.metadata['report'].watertight, things[number][0]
    for suffix in mesh_files.FORMATS:
      mesh_files.write(mesh, tmp_path / f'a.{suffix}')
      if suffix == 'usdz':
        assert _faces_of_usd(tmp_path / 'a.usdz') == len(mesh.faces)
        continue
      loaded = trimesh.load_mesh(tmp_path / f'a.{suffix}', process=False)
      assert len(loaded.faces) == len(mesh.faces), (things[number][0], kind, suffix)
      if suffix in ('ply', 'stl'):
        assert trimesh.load_mesh(tmp_path / f'a.{suffix}').is_watertight, (things[number][0], kind, suffix)


def _faces_of_usd(path):
  pxr = pytest.importorskip('pxr', reason="usd-core is not installed: pip install '.[usdz]'")
  from pxr import UsdGeom

  stage = pxr.Usd.Stage.Open(str(path))
  [shape] = [prim for prim in stage.Traverse() if prim.IsA(UsdGeom.Mesh)]
  return len(UsdGeom.Mesh(shape).GetFaceVertexCountsAttr().Get())


_IN_BLENDER = """
import bpy, json, math, sys
from mathutils import Matrix
job = json.loads(open(sys.argv[1]).read())
found = {}
for path in job['files']:
  bpy.ops.wm.read_factory_settings(use_empty=True)
  if path.endswith('.usdz'):
    bpy.ops.wm.usd_import(filepath=path)
  else:
    bpy.ops.import_scene.gltf(filepath=path)
  [thing] = [one for one in bpy.data.objects if one.type == 'MESH']
  corners = [thing.matrix_world @ vertex.co for vertex in thing.data.vertices]
  found[path] = [[min(c[i] for c in corners) for i in range(3)], [max(c[i] for c in corners) for i in range(3)]]
  scene = bpy.context.scene
  scene.render.engine, scene.cycles.samples, scene.cycles.device = 'CYCLES', 4, 'CPU'
  scene.cycles.use_denoising = False
  scene.cycles.max_bounces = 0
  scene.view_settings.view_transform = 'Standard'
  scene.render.film_transparent = True
  scene.render.resolution_x = scene.render.resolution_y = job['size']
  scene.render.image_settings.file_format, scene.render.image_settings.color_mode = 'PNG', 'RGBA'
  camera = bpy.data.objects.new('camera', bpy.data.cameras.new('camera'))
  camera.data.angle = math.radians(job['fov'])
  scene.collection.objects.link(camera)
  scene.camera = camera
  for number, pose in enumerate(job['poses']):
    camera.matrix_world = Matrix(pose)
    scene.render.filepath = f'{path}.{number}.png'
    bpy.ops.render.render(write_still=True)
print('FOUND ' + json.dumps(found))
"""


@pytest.mark.skipif(not BLENDER.exists(), reason='Blender is not installed: run `make render-env`')
def test_files_in_blender_are_upright_and_have_the_colours_of_the_render(model, things, meshes, tmp_path, capsys):
  """Mean error below 6 of 255 where the model's own view is opaque, as in tests/test_mesh_quality.py."""
  poses, intrinsics = model.turntable(2)
  files = {}
  for key, mesh in meshes.items():
    for suffix in ('glb', 'usdz') if key[0] in TEXTURED else ('glb',):
      files[*key, suffix] = tmp_path / f'{key[0]}_{key[1]}.{suffix}'
      mesh_files.write(mesh, files[*key, suffix])
  job = {'files': list(map(str, files.values())), 'poses': poses[0].tolist(), 'fov': model.fov, 'size': SIZE}
  (tmp_path / 'job.json').write_text(json.dumps(job))
  result = subprocess.run(
    [BLENDER, '-c', _IN_BLENDER, tmp_path / 'job.json'], capture_output=True, text=True, check=False
  )
  assert 'FOUND' in result.stdout, result.stderr[-2000:]
  bounds = json.loads(result.stdout.split('FOUND ')[1].splitlines()[0])
  errors: dict = {}
  for (number, kind, suffix), path in files.items():
    np.testing.assert_allclose(bounds[str(path)], meshes[number, kind].bounds, atol=1e-4)
    pixels = model.render(things[number][1], poses, intrinsics, SIZE, skip=True)
    opacity = pixels.opacity[0][..., None]
    expected = np.clip((pixels.color[0] - (1 - opacity)) / np.maximum(opacity, 1e-3), 0, 1)
    drawn = np.stack([np.asarray(Image.open(f'{path}.{view}.png'), np.float32) / 255 for view in range(2)])
    shown = (drawn[..., 3] > 0.99) & (pixels.opacity[0] > 0.95)
    assert shown.sum() > 50, (things[number][0], kind, suffix)
    errors[number, kind, suffix] = 255 * np.abs(drawn[..., :3] - expected)[shown].mean()
    with capsys.disabled():
      print(f'{things[number][0]}, {kind}, {suffix}: {errors[number, kind, suffix]:.1f} of 255')
  assert np.mean([error for (_, _, suffix), error in errors.items() if suffix == 'glb']) < 6, errors
  for (number, kind, suffix), error in errors.items():
    if suffix == 'usdz':
      assert error == pytest.approx(errors[number, kind, 'glb'], abs=1), (things[number][0], kind)
