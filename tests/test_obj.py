"""The rasteriser reads OBJ files and their material libraries as they are found in the wild."""

from pathlib import Path

from gltf_files import box, squares
import numpy as np
from PIL import Image
import pytest
from test_gltf import assert_same, draw, engine  # noqa: F401  (engine is a fixture)

from lrm_jax.data.rendering import mtl, obj


def write(path: Path, material: str, *, faces: str | None = None, libraries: str | None = None) -> Path:
  """Writes a textured box with the lines `material` in its library, and the image wood.png."""
  arrays = box()
  lines = [f'mtllib {libraries or path.stem + ".mtl"}', 'usemtl m']
  lines += [f'v {x} {y} {z}' for x, y, z in arrays['POSITION']]
  lines += [f'vt {u} {1 - v}' for u, v in arrays['TEXCOORD_0']]
  lines += [f'vn {x} {y} {z}' for x, y, z in arrays['NORMAL']]
  triangles = arrays['indices'].reshape(-1, 3) + 1
  lines += [faces] if faces else ['f ' + ' '.join(f'{i}/{i}/{i}' for i in triangle) for triangle in triangles]
  path.write_text('\n'.join(lines) + '\n')
  path.with_suffix('.mtl').write_text(f'newmtl m\n{material}\n')
  Image.fromarray(squares()).save(path.parent / 'wood.png')
  return path


@pytest.fixture
def expected(engine, tmp_path):  # noqa: F811
  return draw(engine, write(tmp_path / 'plain.obj', 'Kd 1 1 1\nmap_Kd wood.png'))


@pytest.mark.parametrize(
  'line',
  [
    'map_Kd -s 1 1 1 wood.png',
    'map_Kd -s 1 wood.png',
    'map_Kd -o 0 0 0 -s 1.0 1.0 -clamp off wood.png',
    'map_Kd -blendu on -blendv off -mm 0 1 -texres 512 -bm 1.0 -boost 2 wood.png',
    'map_Kd -o 1 -1 wood.png',
    'map_Kd wood floor.png',
    'map_Kd -s 1 1 1 wood floor.png',
    'map_Kd "wood floor.png"',
    'map_Kd textures\\wood.png',
    'map_Kd .\\textures\\oak wood.png',
    'map_Kd C:\\Users\\me\\Desktop\\wood.png',
    'map_Kd /home/me/models/wood.png',
    'map_Kd WOOD.PNG',
    '\tmap_Kd\twood.png',
    'Map_Kd wood.png  ',
    'Kd 0.2 0.2 0.2 # the map replaces it\nmap_Kd wood.png',
  ],
)
def test_maps_are_found_whatever_their_options_and_paths(engine, tmp_path, expected, line):  # noqa: F811
  (tmp_path / 'textures').mkdir()
  for name in ('wood floor.png', 'textures/wood.png', 'textures/oak wood.png'):
    Image.fromarray(squares()).save(tmp_path / name)
  assert_same(draw(engine, write(tmp_path / 'a.obj', f'Kd 1 1 1\n{line}')), expected, share=0.04)


def test_scale_and_offset_of_maps_apply_to_coordinates_that_point_up(tmp_path):
  material = mtl.read(write(tmp_path / 'a.obj', 'map_Kd -s 2 3 1 -o 0.25 0.1 wood.png').with_suffix('.mtl'))['m']
  uv = material.base_texture.coordinates({0: np.array([[0.1, 0.2]])}, 1)
  np.testing.assert_allclose(uv, [[2 * 0.1 + 0.25, 1 - (3 * 0.2 + 0.1)]])
  clamped = mtl.read(write(tmp_path / 'a.obj', 'map_Kd -clamp on wood.png').with_suffix('.mtl'))['m']
  assert material.base_texture.wrap == (10497, 10497) and clamped.base_texture.wrap == (33071, 33071)


@pytest.mark.parametrize(
  'lines, opacity',
  [
    ('d 0.4', 0.4),
    ('Tr 0.6', 0.4),
    ('tr 0.6', 0.4),
    ('d -halo 0.4', 0.4),
    ('d 1.0\nTr 1.0', 1.0),  # Some exporters write the opacity twice.
    ('Kd 1 0 0', 1.0),
  ],
)
def test_opacity_is_d_or_one_minus_tr(engine, tmp_path, lines, opacity):  # noqa: F811
  square = 'f 5/5/5 6/6/6 7/7/7 8/8/8'
  path = write(tmp_path / 'a.obj', lines, faces=square)
  material = mtl.read(path.with_suffix('.mtl'))['m']
  assert material.base_color[3] == pytest.approx(opacity)
  assert material.mode == ('OPAQUE' if opacity == 1 else 'BLEND')
  assert abs(draw(engine, path)[0, ..., 3].max() - 255 * opacity) <= 1


def test_opacity_maps_use_alpha_or_grey(engine, tmp_path):  # noqa: F811
  grey = np.full((4, 4, 3), 102, np.uint8)
  Image.fromarray(grey).save(tmp_path / 'grey.png')
  Image.fromarray(np.concatenate([grey + 100, grey[..., :1]], axis=-1)).save(tmp_path / 'alpha.png')
  for name in ('grey.png', 'alpha.png'):
    for color in ('', 'map_Kd wood.png\n'):
      path = write(tmp_path / 'a.obj', f'{color}map_d {name}', faces='f 5/5/5 6/6/6 7/7/7 8/8/8')
      assert abs(draw(engine, path)[0, ..., 3].max() - 102) <= 1


def test_emission_and_highlights_follow_the_library(tmp_path):
  def read(lines):
    return mtl.read(write(tmp_path / 'a.obj', lines).with_suffix('.mtl'))['m']

  assert read('Ke 0.1 0.2 0.3').emission == (0.1, 0.2, 0.3)
  assert read('Kd 1 1 1').specular == (0, 0, 0) and read('Kd 1 1 1').roughness == 1
  shiny = read('Ks 0.5 0.5 0.5\nNs 250\nillum 2')
  assert shiny.specular == (1, 1, 1) and shiny.roughness == 0.5
  with pytest.raises(ValueError, match="'one 1 1' instead of 3 numbers"):
    read('Kd one 1 1')


def test_libraries_with_spaces_and_several_libraries_are_read(engine, tmp_path, expected):  # noqa: F811
  path = write(tmp_path / 'a.obj', 'map_Kd wood.png', libraries='my box.mtl')
  path.with_suffix('.mtl').rename(tmp_path / 'my box.mtl')
  assert_same(draw(engine, path), expected)
  (tmp_path / 'other.mtl').write_text('newmtl n\nKd 1 0 0\n')
  path = write(tmp_path / 'b.obj', 'map_Kd wood.png', libraries='other.mtl b.mtl')
  assert_same(draw(engine, path), expected)


@pytest.mark.parametrize(
  'name, message',
  [
    ('map_Kd nothing.png', "refers to 'nothing.png', which does not exist: put it beside the file"),
    ('map_Kd -s 1 1', "refers to '1', which does not exist"),
    ('map_Kd broken.png', 'texture broken.png cannot be read'),
    (None, "refers to 'a.mtl', which does not exist"),
  ],
)
def test_missing_and_damaged_textures_and_libraries_are_refused(tmp_path, name, message):
  (tmp_path / 'broken.png').write_bytes(b'no image')
  path = write(tmp_path / 'a.obj', name or '')
  if name is None:
    path.with_suffix('.mtl').unlink()
  with pytest.raises(ValueError, match=message):
    obj.read(path)


def test_relative_indices_continued_lines_and_windows_line_ends_are_read(engine, tmp_path, expected):  # noqa: F811
  path = write(tmp_path / 'a.obj', 'map_Kd wood.png')
  text = path.read_text()
  lines = []
  for line in text.splitlines():
    if line.startswith('f '):
      corners = [' '.join(f'{int(i) - 25}' for i in corner.split('/')).replace(' ', '/') for corner in line[2:].split()]
      line = f'f {corners[0]} \\\r\n {corners[1]} {corners[2]} # a comment'
    lines.append(line)
  path.write_bytes(b'\xef\xbb\xbf' + '\r\n'.join(lines).encode())
  assert_same(draw(engine, path), expected)


def test_quads_are_drawn_like_their_triangles(engine, tmp_path, expected):  # noqa: F811
  faces = '\n'.join('f ' + ' '.join(f'{i}/{i}/{i}' for i in range(4 * n + 1, 4 * n + 5)) for n in range(6))
  assert_same(draw(engine, write(tmp_path / 'a.obj', 'map_Kd wood.png', faces=faces)), expected)


@pytest.mark.parametrize('axes', [(0, 1, 2), (1, 2, 0), (2, 0, 1)])
@pytest.mark.parametrize('reverse', [False, True])
def test_concave_polygons_are_covered_once(axes, reverse):
  for corners in (
    [(0, 0), (2, 0), (2, 1), (1, 0.2), (0, 1)],
    [(0, 0), (3, 0), (3, 1), (2, 1), (2, 0.5), (1, 0.5), (1, 1), (0, 1)],
    [(0, 0), (1, 0.4), (2, 0), (1, 2)],
    [(1, 0.4), (2, 0), (1, 2), (0, 0)],
  ):
    points = np.array([(x, y, 0) for x, y in corners[:: -1 if reverse else 1]], float)[:, axes]
    triangles = obj.triangulated([list(range(len(corners)))], points)
    assert len(triangles) == len(corners) - 2
    a, b, c = (points[triangles[:, i]] for i in range(3))
    areas = np.cross(b - a, c - a) / 2
    x, y = np.array(corners, float).T
    area = abs(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))) / 2
    np.testing.assert_allclose(np.linalg.norm(areas, axis=1).sum(), area)
    np.testing.assert_allclose(np.linalg.norm(areas.sum(axis=0)), area)


def test_corners_without_normals_are_smooth_only_within_a_smoothing_group(tmp_path):
  for smoothing, count in (('s 1', 4), ('s off', 12), ('', 12)):
    text = f'v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\n{smoothing}\nf 1 3 2\nf 1 2 4\nf 1 4 3\nf 2 3 4\n'
    (tmp_path / 'a.obj').write_text(text)
    (surface,) = (found.with_normals() for found in obj.read(tmp_path / 'a.obj'))
    assert len(surface.points) == count
    np.testing.assert_allclose(np.linalg.norm(surface.normals, axis=1), 1)


def test_large_coordinates_are_read_in_double_precision(engine, tmp_path, expected):  # noqa: F811
  path = write(tmp_path / 'a.obj', 'map_Kd wood.png')
  far = []
  for line in path.read_text().splitlines():
    if line.startswith('v '):
      x, y, z = map(float, line.split()[1:])
      line = f'v {x + 12958095.25:.8f} {y:.8f} {z - 4865499.5:.8f}'
    far.append(line)
  path.write_text('\n'.join(far))
  assert_same(draw(engine, path), expected)


@pytest.mark.parametrize(
  'line, message',
  [
    ('f 1 2 99', 'uses v 99 of 24'),
    ('f 1 2 0', "line 75 of the file has the corner '0', whose vertex does not exist"),
    ('f 1 2 x', "the corner 'x', which is not v/vt/vn"),
    ('v 1 2 a\nf 1 2 3', 'a value that is not a number'),
  ],
)
def test_damaged_obj_files_are_refused_with_the_reason(tmp_path, line, message):
  with pytest.raises(ValueError, match=message):
    obj.read(write(tmp_path / 'a.obj', 'Kd 1 1 1', faces=line))
