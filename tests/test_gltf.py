"""The rasteriser draws what glTF 2.0 says: a file with a feature looks like the same scene without it."""

import base64
import json

from gltf_cases import BLUE, CASES, RED
from gltf_files import Gltf, box, squares, textured_box
import numpy as np
from PIL import Image
import pytest

from lrm_jax.data.rendering import gltf, scene
from lrm_jax.data.rendering.presets import Light
from lrm_jax.geometry import cameras

moderngl = pytest.importorskip('moderngl', reason="moderngl is not installed: pip install '.[raster]'")
from lrm_jax.data.rendering.raster import Raster  # noqa: E402

POSES = cameras.look_at([[0.9, -1.7, 0.6], [-1.1, 1.4, -0.7]])


@pytest.fixture(scope='module')
def engine():
  try:
    return Raster()
  except ValueError as error:
    pytest.skip(str(error))


def draw(engine, path, size=64, poses=POSES) -> np.ndarray:
  """Returns views [V, size, size, 4] of the normalised object in even light, as data/render.py makes them."""
  vertices, _ = engine.load(path)
  centre, scale = scene.normalisation(vertices)
  engine.light(Light())
  views = []
  for pose in poses:
    pose = pose.copy()
    pose[:3, 3] = pose[:3, 3] / scale + centre
    views.append(engine.render(pose, 50.0, size))
  return np.stack(views).astype(int)


def assert_same(found: np.ndarray, expected: np.ndarray, share=0.02, mean=0.5) -> None:
  """Asserts that views are equal, except for a share of pixels where textures or triangles have edges."""
  assert (expected[..., 3].reshape(len(expected), -1).max(axis=1) == 255).all()
  different = np.abs(found - expected).max(axis=-1)
  assert np.mean(different > 3) < share and np.mean(different) < mean, (np.mean(different > 3), np.mean(different))


@pytest.mark.parametrize('name', CASES)
def test_feature_is_drawn_as_the_same_scene_without_it(engine, tmp_path, name):
  feature, plain = CASES[name]()
  found = draw(engine, feature.save(tmp_path / 'feature.glb'))
  expected = draw(engine, plain.save(tmp_path / 'plain.glb'))
  # Masks are decided for whole pixels of the supersampled image, so their edges are coarser than those of triangles.
  assert_same(found, expected, **(dict(share=0.05, mean=2.0) if name.startswith('alpha_mask') else {}))


def flat(path, size=16, **options):
  """Writes a square that faces the camera, and fills the view at its centre."""
  file = Gltf()
  arrays = {name: values[:4] if name != 'indices' else values[:6] for name, values in box((1, 1, 1)).items()}
  arrays['POSITION'] = np.float32([[-0.5, -0.5, 0], [0.5, -0.5, 0], [0.5, 0.5, 0], [-0.5, 0.5, 0]])
  arrays['NORMAL'] = np.tile(np.float32([0, 0, 1]), (4, 1))
  if 'pixels' in options:
    options['texture'] = file.texture(options.pop('pixels'))
  file.node(mesh=file.mesh(file.primitive(arrays, file.material(**options))))
  return file.save(path)


def colour(engine, path) -> np.ndarray:
  return draw(engine, path, 16, cameras.input_camera()[None])[0, 8, 8]


@pytest.mark.parametrize(
  'options, expected',
  [  # Of Cycles in Blender 4.5, 256 samples.
    (dict(color=(0.003,) * 3), (35, 35, 35)),
    (dict(color=(0.003,) * 3, roughness=0.0), (58, 58, 58)),
    (dict(color=(0.003,) * 3, roughness=0.5), (56, 56, 56)),
    (dict(pixels=np.full((4, 4, 3), (220, 30, 30), np.uint8), roughness=0.5), (220, 63, 63)),
    (dict(pixels=np.full((4, 4, 3), (220, 30, 30), np.uint8)), (220, 45, 45)),
    (dict(color=(1.0, 1.0, 1.0)), (255, 255, 255)),
    (dict(color=(1.0, 1.0, 1.0), metallic=1.0, roughness=0.7), (255, 255, 255)),
    (dict(color=(0.5, 0.5, 0.5), metallic=1.0), (140, 140, 140)),
    (dict(color=(1.0, 0.0, 0.0), metallic=1.0), (255, 0, 0)),
    (dict(color=(0.195, 0.027, 0.303), metallic=1.0, roughness=0.6), (114, 41, 141)),
    (dict(color=(0.556, 0.111, 0.013), metallic=1.0, roughness=1.0), (151, 56, 13)),
    (dict(color=(0.157, 0.087, 0.807), metallic=0.5, roughness=1.0), (95, 72, 219)),
    (dict(color=(0.21, 0.039, 0.06), roughness=0.4), (135, 78, 88)),
  ],
)
def test_flat_patches_have_the_colours_of_cycles(engine, tmp_path, options, expected):
  np.testing.assert_allclose(colour(engine, flat(tmp_path / 'a.glb', **options))[:3], expected, atol=2)


def test_unlit_materials_show_the_bytes_of_their_texture(engine, tmp_path):
  pixels = np.full((4, 4, 3), (17, 99, 230), np.uint8)
  path = flat(tmp_path / 'a.glb', pixels=pixels, extensions={'KHR_materials_unlit': {}})
  np.testing.assert_allclose(colour(engine, path), (17, 99, 230, 255), atol=1)


def test_specular_glossiness_material_is_drawn_as_the_metal_it_describes(engine, tmp_path):
  glossy = {'diffuseFactor': [0, 0, 0, 1], 'specularFactor': [0.9, 0.6, 0.4], 'glossinessFactor': 0.3}
  path = flat(tmp_path / 'a.glb', extensions={'KHR_materials_pbrSpecularGlossiness': glossy})
  other = flat(tmp_path / 'b.glb', color=(0.9, 0.6, 0.4), metallic=1.0, roughness=0.7)
  np.testing.assert_allclose(colour(engine, path), colour(engine, other), atol=1)


def test_large_translations_keep_double_precision(engine, tmp_path):
  expected = draw(engine, textured_box().save(tmp_path / 'near.glb'))
  for shift in ([12958095.124851028, 0.0, -4865499.469870342], [1e6, 0.0, -1e6]):
    file = textured_box()
    file.document['nodes'][0]['translation'] = shift
    assert_same(draw(engine, file.save(tmp_path / 'far.glb')), expected)
  file = textured_box()
  file.document['nodes'][0]['translation'] = [-1e9, 0.0, 0.0]
  file.document['nodes'].append({'translation': [1e9, 5.0, 0.0], 'children': [0]})
  file.document['scenes'][0]['nodes'] = [1]
  assert_same(draw(engine, file.save(tmp_path / 'far.glb')), expected)


def test_positions_too_far_from_their_origin_for_single_precision_are_refused(engine, tmp_path):
  file = Gltf()
  file.node(mesh=file.mesh(file.primitive(box(centre=(1e6, 0, 0)), file.material())))
  with pytest.raises(ValueError, match='steps, 0.062, are 9% of the radius .* move the mesh to the origin'):
    engine.load(file.save(tmp_path / 'a.glb'))


def test_clipping_planes_enclose_scenes_of_many_small_parts(engine, tmp_path):
  parts, whole = Gltf(), Gltf()
  small = box((0.024, 0.03, 0.02))
  mesh = parts.mesh(parts.primitive(small, parts.material(color=RED)))
  angles = np.arange(120) / 120 * 2 * np.pi
  shifts = np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=-1).astype(np.float32)
  for shift in shifts:
    parts.node(mesh=mesh, translation=shift.tolist())
  arrays = {name: np.concatenate([small[name]] * 120) for name in ('NORMAL', 'TEXCOORD_0')}
  arrays['POSITION'] = np.concatenate([small['POSITION'] + shift for shift in shifts])
  arrays['indices'] = np.concatenate([small['indices'] + 24 * number for number in range(120)]).astype(np.uint16)
  whole.node(mesh=whole.mesh(whole.primitive(arrays, whole.material(color=RED))))
  found = draw(engine, parts.save(tmp_path / 'parts.glb'), 128)
  expected = draw(engine, whole.save(tmp_path / 'whole.glb'), 128)
  assert (found[..., 3] > 0).sum() > 1000
  np.testing.assert_allclose(found, expected, atol=3)


def test_depth_takes_alpha_by_the_mode_of_the_material(engine, tmp_path):
  pose = cameras.input_camera()
  for mode, alpha, hit in (('OPAQUE', 0.2, True), ('BLEND', 0.2, False), ('BLEND', 0.8, True), ('MASK', 0.4, False)):
    engine.load(flat(tmp_path / 'a.glb', color=(1, 1, 1, alpha), alphaMode=mode))
    assert (engine.geometry(pose, 50.0, 16).distance[8, 8] > 0) == hit, mode


def test_culled_backs_have_no_depth(engine, tmp_path):
  back = cameras.look_at([0.0, 2.0, 0.0])
  for double_sided in (False, True):
    engine.load(flat(tmp_path / 'a.glb', doubleSided=double_sided))
    engine.light(Light())
    assert (engine.geometry(back, 50.0, 16).distance[8, 8] > 0) == double_sided
    assert (engine.render(back, 50.0, 16)[8, 8, 3] > 0) == double_sided


# Files beside a glTF file.


def test_percent_encoded_and_plain_names_are_found(engine, tmp_path):
  expected = draw(engine, textured_box().save(tmp_path / 'plain.glb'))
  file = textured_box()
  del file.document['images'][0]['bufferView'], file.document['images'][0]['mimeType']
  (tmp_path / 'tex tures').mkdir()
  for name in ('my texture é.png', '100%25.png', 'tex tures/a.png'):
    Image.fromarray(squares()).save(tmp_path / name)
  for uri in ('my%20texture%20%C3%A9.png', 'my texture é.png', '100%25.png', 'tex%20tures\\a.png'):
    file.document['images'][0]['uri'] = uri
    assert_same(draw(engine, file.save(tmp_path / 'a file.gltf')), expected)  # Its buffer is `a%20file%20data.bin`.


def test_data_uris_are_read(engine, tmp_path):
  file = textured_box()
  uri = 'data:application/octet-stream;base64,' + base64.b64encode(file.data).decode()
  document = file.document | {'buffers': [{'byteLength': len(file.data), 'uri': uri}]}
  (tmp_path / 'a.gltf').write_text('\ufeff' + json.dumps(document))  # With a byte-order mark.
  expected = draw(engine, file.save(tmp_path / 'plain.glb'))
  assert_same(draw(engine, tmp_path / 'a.gltf'), expected)


# Refusals: one sentence with the name and the remedy.


def compressed(kind: str) -> Gltf:
  """Returns a file with a payload that is not what its extension promises."""
  file = textured_box()
  if kind == 'KHR_draco_mesh_compression':
    extension = {'bufferView': file.view(b'no Draco'), 'attributes': {'POSITION': 0}}
    file.document['meshes'][0]['primitives'][0]['extensions'] = {kind: extension}
  elif kind.endswith('meshopt_compression'):
    file.document['bufferViews'][0]['extensions'] = {kind: {'buffer': 0, 'byteLength': 8, 'byteStride': 8, 'count': 4}}
  elif kind == 'KHR_texture_basisu':
    file.document['textures'][0] = {'extensions': {kind: {'source': 0}}}
  file.use(kind)
  return file


@pytest.mark.parametrize(
  'kind, remedy',
  [
    ('KHR_draco_mesh_compression', 'damaged .*: export the object again'),
    ('EXT_meshopt_compression', 'gltfpack -i IN.glb -o OUT.glb'),
    ('KHR_meshopt_compression', 'gltfpack'),
    ('KHR_texture_basisu', 'gltf-transform ktxdecompress'),
    ('KHR_materials_transmission', 'use --engine=cycles'),
    ('KHR_materials_clearcoat', 'use --engine=cycles'),
    ('VENDOR_new_geometry', 'export the object again without it'),
  ],
)
def test_required_extension_that_is_not_supported_is_refused_by_name(tmp_path, kind, remedy):
  with pytest.raises(ValueError, match=f'extension {kind}.*{remedy}') as error:
    gltf.read(compressed(kind).save(tmp_path / 'a.glb'))
  assert '\n' not in str(error.value)


def test_draco_without_its_package_is_refused_with_the_remedy(tmp_path, monkeypatch):
  monkeypatch.setitem(__import__('sys').modules, 'DracoPy', None)
  with pytest.raises(
    ValueError, match='KHR_draco_mesh_compression needs DracoPy: pip install DracoPy, or use --engine'
  ):
    gltf.read(compressed('KHR_draco_mesh_compression').save(tmp_path / 'a.glb'))


def test_optional_extensions_are_ignored_where_the_file_has_a_fallback(engine, tmp_path):
  expected = draw(engine, textured_box().save(tmp_path / 'plain.glb'))
  file = textured_box()
  file.document['textures'][0]['extensions'] = {'KHR_texture_basisu': {'source': 7}}
  file.document['bufferViews'][0]['extensions'] = {'EXT_meshopt_compression': {'buffer': 0, 'byteLength': 8}}
  file.use('KHR_texture_basisu', 'EXT_meshopt_compression', 'VENDOR_notes', required=False)
  assert_same(draw(engine, file.save(tmp_path / 'a.glb')), expected)
  # Without a fallback they are refused, although they are not required.
  file.document['bufferViews'][0]['buffer'] = 1
  file.more_buffers.append({'byteLength': 8})
  with pytest.raises(ValueError, match='EXT_meshopt_compression, which is not supported: decompress'):
    gltf.read(file.save(tmp_path / 'a.glb'))


def damaged(kind: str, path) -> None:
  file = textured_box()
  document, primitive = file.document, file.document['meshes'][0]['primitives'][0]
  if kind == 'cycle':
    document['nodes'][0]['children'] = [0]
  elif kind == 'two parents':
    document['nodes'] += [{'children': [0]}, {'children': [0]}]
  elif kind == 'index':
    primitive['indices'] = file.accessor(np.array([0, 1, 99], np.uint16))
  elif kind == 'joint':
    joints, weights = np.full((24, 4), 3, np.uint8), np.full((24, 4), 0.25, np.float32)
    primitive['attributes'] |= {'JOINTS_0': file.accessor(joints), 'WEIGHTS_0': file.accessor(weights)}
    document['skins'] = [{'joints': [0]}]
    document['nodes'][0]['skin'] = 0
  elif kind == 'buffer view':
    document['bufferViews'][0]['byteLength'] = 10**6
  elif kind == 'accessor':
    document['accessors'][primitive['attributes']['POSITION']]['count'] = 1000
  elif kind == 'reference':
    primitive['material'] = 5
  elif kind == 'count':
    primitive['attributes']['NORMAL'] = file.accessor(np.zeros((5, 3), np.float32))
  elif kind == 'negative index':
    primitive['material'] = -1
  elif kind == 'sampler':
    document['samplers'] = [{'wrapS': 5126}]
    document['textures'][0]['sampler'] = 0
  elif kind == 'version':
    document['asset']['version'] = '1.0'
  elif kind == 'points only':
    primitive['mode'] = 0
  elif kind == 'unused image':
    start = document['bufferViews'][document['images'][0]['bufferView']]['byteOffset']
    file.data[start : start + 40] = bytes(40)
    del document['materials'][0]['pbrMetallicRoughness']['baseColorTexture']
  elif kind == 'KTX2':
    view = file.view(b'\xabKTX 20\xbb\r\n\x1a\n' + bytes(100))
    document['images'][0] = {'bufferView': view, 'mimeType': 'image/ktx2'}
  elif kind == 'missing':
    document['images'][0] = {'uri': 'not%20there.png'}
  elif kind == 'remote':
    document['images'][0] = {'uri': 'https://example.com/a.png'}
  file.save(path)


@pytest.mark.parametrize(
  'kind, message',
  [
    ('cycle', 'cycle'),
    ('two parents', 'node 0 of the file has two parents'),
    ('index', 'uses vertex 99 of 24'),
    ('joint', 'uses joint 3 of 1'),
    ('buffer view', 'buffer view 0 of the file ends after its buffer'),
    ('accessor', 'an accessor of the file ends after its buffer view'),
    ('reference', 'not valid glTF 2.0'),
    ('negative index', 'the index -1 is negative'),
    ('sampler', 'a sampler of the file has wrapS 5126, which glTF does not define'),
    ('count', 'NORMAL of the file has 5 values for 24 vertices'),
    ('version', 'glTF 1.0: convert it'),
    ('points only', 'no mesh'),
    ('unused image', 'texture 0 cannot be read'),
    ('KTX2', 'KHR_texture_basisu'),
    ('missing', 'refers to not there.png, which does not exist: put it beside a.glb'),
    ('remote', 'https://example.com/a.png: download it'),
  ],
)
def test_damaged_files_are_refused_with_the_reason(engine, tmp_path, kind, message):
  damaged(kind, tmp_path / 'a.glb')
  with pytest.raises(ValueError, match=message):
    scene.normalisation(engine.load(tmp_path / 'a.glb')[0])


def test_default_material_is_white_and_vertices_without_triangles_do_not_count(engine, tmp_path):
  file = Gltf()
  arrays = box()
  arrays = {name: np.concatenate([values, values[:1]]) for name, values in arrays.items() if name != 'indices'}
  arrays['POSITION'][-1] = 100.0
  arrays['indices'] = box()['indices']
  file.node(mesh=file.mesh(file.primitive(arrays)))
  views = draw(engine, file.save(tmp_path / 'a.glb'))
  assert len(engine.load(tmp_path / 'a.glb')[0]) == 24
  np.testing.assert_array_equal(views[:, 32, 32], 255)


def test_normals_of_length_zero_and_nan_do_not_spoil_pixels(engine, tmp_path):
  expected = draw(engine, textured_box().save(tmp_path / 'plain.glb'))
  for value in (0.0, np.nan):
    file, arrays = Gltf(), box()
    arrays['NORMAL'] = np.full((24, 3), value, np.float32)
    file.node(mesh=file.mesh(file.primitive(arrays, file.material(texture=file.texture()))))
    for entry in file.document['accessors']:  # JSON has no NaN.
      entry.pop('min', None), entry.pop('max', None)
    assert_same(draw(engine, file.save(tmp_path / 'a.glb')), expected)


def test_materials_do_not_leak_into_the_next_file(engine, tmp_path):
  first = flat(tmp_path / 'a.glb', color=RED, extensions={'KHR_materials_unlit': {}})
  second = flat(tmp_path / 'b.glb', color=BLUE)
  expected = colour(engine, second)
  assert colour(engine, first)[0] > 150
  np.testing.assert_array_equal(colour(engine, second), expected)
