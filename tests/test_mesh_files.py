"""Meshes in files: every format opens upright with the right colours; textures equal vertex colours."""

import io
import zipfile

import numpy as np
from PIL import Image
import pytest
import trimesh

from lrm_jax.errors import InputError
from lrm_jax.reconstruction import mesh as mesh_lib
from lrm_jax.reconstruction import mesh_files, texture

# Right, top and front of the object in Blender and trimesh, and in the axes of the file.
Y_UP, Z_UP = [(1, 0, 0), (0, 1, 0), (0, 0, 1)], [(1, 0, 0), (0, 0, 1), (0, -1, 0)]
AXES = {'glb': Y_UP, 'obj': Y_UP, 'ply': Z_UP, 'stl': Z_UP, 'usdz': Y_UP}


def figure(points):
  """A field without mirror symmetry: a red box to the right (+x), a green one on top (+z), a blue one in front (-y)."""
  density, color = np.zeros(len(points)), np.full((len(points), 3), 0.5)
  for axis, sign, tint, far in ((0, 1, (1, 0, 0), 0.5), (2, 1, (0, 1, 0), 0.4), (1, -1, (0, 0, 1), 0.3)):
    centre = np.zeros(3)
    centre[axis] = far * sign
    density = np.maximum(density, np.maximum(25 + 400 * (0.15 - np.abs(points - centre).max(-1)), 0))
    color[np.abs(points - centre).max(-1) < 0.2] = tint
  return density, color


@pytest.fixture(scope='module', params=['vertices', 'texture'])
def mesh(request):
  size = 128 if request.param == 'texture' else None
  return mesh_lib.extract(mesh_lib.field_of(figure), resolution=41, threshold=25.0, texture_size=size, faces=900)


def load_usdz(path):
  """Returns (mesh, linear vertex colours [K, 3] in 0..1 or None, texture or None) of a file, as usd-core reads it."""
  pxr = pytest.importorskip('pxr', reason="usd-core is not installed: pip install '.[usdz]'")
  from pxr import UsdGeom

  stage = pxr.Usd.Stage.Open(str(path))
  assert UsdGeom.GetStageUpAxis(stage) == UsdGeom.Tokens.y and UsdGeom.GetStageMetersPerUnit(stage) == 1
  [shape] = [UsdGeom.Mesh(prim) for prim in stage.Traverse() if prim.IsA(UsdGeom.Mesh)]
  primvars = {primvar.GetPrimvarName(): primvar.Get() for primvar in UsdGeom.PrimvarsAPI(shape).GetPrimvars()}
  assert set(shape.GetFaceVertexCountsAttr().Get()) == {3}
  loaded = trimesh.Trimesh(
    np.array(shape.GetPointsAttr().Get()),
    np.array(shape.GetFaceVertexIndicesAttr().Get()).reshape(-1, 3),
    vertex_normals=np.array(shape.GetNormalsAttr().Get()),
    process=False,
  )
  if 'st' not in primvars:
    return loaded, np.array(primvars['displayColor']), None
  with zipfile.ZipFile(path) as file:
    texture = Image.open(io.BytesIO(file.read(next(name for name in file.namelist() if name.endswith('.png')))))
  loaded.visual = trimesh.visual.TextureVisuals(np.array(primvars['st']), image=texture)
  return loaded, None, texture


def load(path):
  """Returns (mesh, colour [T, 3] of each triangle in 0..1 or None) of a file, as trimesh or usd-core reads it."""
  if path.suffix == '.usdz':
    loaded, linear, texture = load_usdz(path)
    if texture is None:
      srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 1e-6) ** (1 / 2.4) - 0.055)
      return loaded, srgb[loaded.faces].mean(axis=1)
    return loaded, colors_of_texture(loaded, texture)
  (loaded,) = trimesh.load_scene(path, process=False).geometry.values()
  visual = loaded.visual
  if visual.kind == 'texture' and visual.uv is not None:
    return loaded, colors_of_texture(
      loaded, getattr(visual.material, 'baseColorTexture', None) or visual.material.image
    )
  if path.suffix == '.stl':
    return loaded, None
  attributes = getattr(visual, 'vertex_attributes', None) or {}
  colors = attributes.get('color', getattr(visual, 'vertex_colors', None))
  return loaded, (colors[:, :3] / np.iinfo(colors.dtype).max)[loaded.faces].mean(axis=1)


def colors_of_texture(loaded, image):
  pixels = np.asarray(image.convert('RGB')) / 255
  at = loaded.visual.uv[loaded.faces].mean(axis=1) * [1, -1] + [0, 1]
  row, column = (at * pixels.shape[0]).astype(int)[:, ::-1].T
  return pixels[row, column]


@pytest.mark.parametrize('kind', mesh_files.FORMATS)
def test_file_opens_upright_with_the_right_colours(mesh, tmp_path, kind):
  files = mesh_files.write(mesh, tmp_path / f'a.{kind}')
  assert {path.name for path in files} == {path.name for path in tmp_path.iterdir()}
  loaded, colors = load(tmp_path / f'a.{kind}')
  assert len(loaded.faces) == len(mesh.faces) and loaded.volume == pytest.approx(mesh.volume, rel=1e-4)
  centres = loaded.vertices[loaded.faces].mean(axis=1)
  for channel, (axis, far) in enumerate(zip(np.array(AXES[kind]), (0.5, 0.4, 0.3))):
    part = np.abs(centres - far * axis).max(-1) < 0.17
    assert part.sum() > 80
    if colors is not None:
      np.testing.assert_allclose(np.median(colors[part], axis=0), np.eye(3)[channel], atol=0.03)
  if kind != 'stl':
    outwards = np.sum(loaded.vertex_normals[loaded.faces[:, 0]] * loaded.face_normals, axis=-1)
    assert np.median(outwards) > 0.7


def test_other_input_cameras_see_the_front(mesh, tmp_path):
  """A model whose input camera is at +x: the red box, which faces it, becomes the front."""
  for kind, front in (('glb', 2), ('ply', 1)):
    mesh_files.write(mesh, tmp_path / f'a.{kind}', (2.0, 0.0, 0.0))
    bounds = load(tmp_path / f'a.{kind}')[0].bounds
    assert np.abs(bounds[:, front]).max() == pytest.approx(0.65, abs=0.03)
    assert bounds[1 if kind == 'glb' else 0, front] * (1 if kind == 'glb' else -1) > 0.6


def test_joined_formats_of_a_textured_mesh_are_watertight(mesh, tmp_path):
  for kind in ('ply', 'stl'):
    mesh_files.write(mesh, tmp_path / f'a.{kind}')
    assert trimesh.load_mesh(tmp_path / f'a.{kind}').is_watertight


def test_texture_has_the_colour_of_every_point_and_no_background():
  """Colours of a smooth function of the position, read back at random points of the surface."""
  rng = np.random.default_rng(0)
  ball = trimesh.creation.icosphere(3)
  vertices, triangles = np.asarray(ball.vertices, np.float32), np.asarray(ball.faces)

  def color(points, normals):
    np.testing.assert_allclose(np.sum(normals * points, axis=-1), 1, atol=0.02)
    return points / 2 + 0.5

  baked = texture.bake(color, vertices, triangles, vertices, 256)
  np.testing.assert_allclose(baked.vertices, vertices[np.asarray(ball.kdtree.query(baked.vertices)[1])], atol=1e-6)
  np.testing.assert_allclose(np.sum(baked.vertex_normals * baked.vertices, axis=-1), 1, atol=1e-3)  # Also at seams.
  weights = rng.dirichlet([1, 1, 1], len(baked.faces))
  points = np.einsum('tk,tkc->tc', weights, baked.vertices[baked.faces])
  uv = np.einsum('tk,tkc->tc', weights, baked.visual.uv[baked.faces])
  pixels = np.asarray(baked.visual.material.image)
  row, column = np.minimum((uv * [1, -1] + [0, 1]) * 256, 255).astype(int)[:, ::-1].T
  np.testing.assert_allclose(pixels[row, column] / 255, points / 2 + 0.5, atol=0.03)
  assert pixels.max(axis=-1).min() > 50  # Nothing is black: space between charts has the colour of the nearest one.


def test_texture_of_a_reconstruction_agrees_with_its_vertex_colours():
  field = mesh_lib.field_of(figure)
  plain = mesh_lib.extract(field, resolution=41, threshold=25.0, faces=900)
  baked = mesh_lib.extract(field, resolution=41, threshold=25.0, faces=900, texture_size=256)
  expected = plain.visual.vertex_colors[:, :3].astype(float)
  read = mesh_files._with_vertex_colors(baked)
  place = plain.kdtree.query(read.vertices)[1]
  error = np.abs(read.visual.vertex_colors[:, :3] - expected[place]).mean(axis=-1)
  assert np.median(error) < 2 and np.mean(error) < 12  # Boxes meet at a few hard edges.


@pytest.mark.parametrize('size', [8, 10_000])
def test_impossible_texture_raises(size):
  with pytest.raises(InputError, match=f'a texture of {size} pixels'):
    texture.check(size)


def test_usdz_passes_the_checks_of_usd(mesh, tmp_path):
  """The validators of usd-core, which include those for packages, textures, shaders and Apple's viewers."""
  pxr = pytest.importorskip('pxr', reason="usd-core is not installed: pip install '.[usdz]'")
  from pxr import UsdValidation

  checks = UsdValidation.ValidationContext(UsdValidation.ValidationRegistry().GetOrLoadAllValidators())
  mesh_files.write(mesh, tmp_path / 'a.usdz')
  assert [error.GetMessage() for error in checks.Validate(pxr.Usd.Stage.Open(str(tmp_path / 'a.usdz')))] == []
  assert checks.Validate(pxr.Usd.Stage.CreateInMemory())  # Without an up axis and a default prim.
  assert {path.name for path in tmp_path.iterdir()} == {'a.usdz'}


def test_missing_usd_is_one_sentence(monkeypatch):
  monkeypatch.setattr('lrm_jax.extras.installed', lambda module: False)
  with pytest.raises(
    ImportError, match=r"--formats=usdz needs pxr, which is not installed: pip install 'lrm_jax\[usdz\]'"
  ):
    mesh_files.parse_formats('glb,usdz')


def test_unknown_formats_raise(mesh, tmp_path):
  with pytest.raises(InputError, match='--formats=glb,fbx: fbx is unknown, use glb, obj, ply, stl, usdz'):
    mesh_files.parse_formats('glb,fbx')
  with pytest.raises(InputError, match='the suffix must be one of .glb'):
    mesh_files.write(mesh, tmp_path / 'a.fbx')
  assert mesh_files.parse_formats('PLY, .glb,ply') == ['ply', 'glb']
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('mesh', ['texture'], indirect=True)
def test_glb_with_a_texture_is_unlit_and_has_its_image(mesh, tmp_path):
  mesh_files.write(mesh, tmp_path / 'a.glb')
  loaded, _ = load(tmp_path / 'a.glb')
  stream = io.BytesIO()
  loaded.visual.material.baseColorTexture.save(stream, 'PNG')
  np.testing.assert_array_equal(np.asarray(Image.open(stream).convert('RGB')), np.asarray(mesh.visual.material.image))
  np.testing.assert_allclose(loaded.visual.uv, mesh.visual.uv, atol=1e-6)


def test_missing_xatlas_is_one_sentence(monkeypatch):
  monkeypatch.setattr('lrm_jax.extras.installed', lambda module: False)
  with pytest.raises(
    ImportError, match=r"a texture needs xatlas, which is not installed: pip install 'lrm_jax\[texture\]'"
  ):
    texture.check(512)
