"""The matrix of the conformance tests: glTF files with one feature, or two, and the same scene without them."""

from collections.abc import Callable

from gltf_files import COLORS, Gltf, box, squares, textured_box
import numpy as np

CASES: dict[str, Callable[[], tuple[Gltf, Gltf]]] = {}


def case(function):
  """Registers a function that returns (file with the feature, file of the same scene without it)."""
  CASES[function.__name__] = function
  return function


def scene(*parts, nodes=None) -> Gltf:
  """Returns a file with meshes (arrays, options of the material), one node each, with the given fields."""
  file = Gltf()
  for number, (arrays, options) in enumerate(parts):
    mesh = file.mesh(file.primitive(arrays, file.material(**options)))
    file.node(mesh=mesh, **(nodes[number] if nodes else {}))
  return file


def turned(points: np.ndarray, axis=2, angle=np.pi / 6) -> np.ndarray:
  """Returns points [K, 3] rotated around a coordinate axis."""
  i, j = (axis + 1) % 3, (axis + 2) % 3
  result = points.copy()
  result[:, i] = np.cos(angle) * points[:, i] - np.sin(angle) * points[:, j]
  result[:, j] = np.sin(angle) * points[:, i] + np.cos(angle) * points[:, j]
  return result


def quaternion(axis=2, angle=np.pi / 6) -> list[float]:
  result = [0.0, 0.0, 0.0, float(np.cos(angle / 2))]
  result[axis] = float(np.sin(angle / 2))
  return result


NEAREST = {'magFilter': 9728, 'minFilter': 9728}
RED, BLUE, DARK = (0.6, 0.05, 0.02), (0.05, 0.1, 0.7), (0.01, 0.02, 0.03)


@case
def normalized_texture_coordinates():
  arrays, file = box(), Gltf()
  arrays['TEXCOORD_0'] = np.round(arrays['TEXCOORD_0'] * 65535).astype(np.uint16)
  material = file.material(texture=file.texture())
  file.node(mesh=file.mesh(file.primitive(arrays, material, normalized=['TEXCOORD_0'])))
  return file, textured_box()


@case
def quantized_positions_and_normals():
  arrays, file = box(), Gltf()
  file.use('KHR_mesh_quantization')
  arrays['POSITION'] = np.round(arrays['POSITION'] * 10000).astype(np.int16)
  arrays['NORMAL'] = np.round(arrays['NORMAL'] * 127).astype(np.int8)
  primitive = file.primitive(arrays, file.material(texture=file.texture()), normalized=['NORMAL'])
  file.node(mesh=file.mesh(primitive), scale=[1e-4] * 3)
  return file, textured_box()


@case
def normalized_positions_in_two_places():
  arrays, file = box((1.0, 1.0, 1.0)), Gltf()
  file.use('KHR_mesh_quantization')
  for name, kind, limit in (('POSITION', np.int16, 32767), ('NORMAL', np.int8, 127)):
    arrays[name] = np.round(arrays[name] * (2 if name == 'POSITION' else 1) * limit).astype(kind)
  nodes = [dict(scale=[0.5] * 3, translation=[x, 0, 0]) for x in (-0.7, 0.7)]
  for color, node in zip((RED, BLUE), nodes):
    primitive = file.primitive(arrays, file.material(color=color), normalized=['POSITION', 'NORMAL'])
    file.node(mesh=file.mesh(primitive), **node)
  plain = [box((1.0, 1.0, 1.0), (x, 0, 0)) for x in (-0.7, 0.7)]
  return file, scene(*((arrays, dict(color=color)) for arrays, color in zip(plain, (RED, BLUE))))


@case
def unsigned_quantized_texture_coordinates_with_a_transform():
  arrays, file = box(), Gltf()
  file.use('KHR_mesh_quantization', 'KHR_texture_transform')
  arrays['TEXCOORD_0'] = np.round(arrays['TEXCOORD_0'] * 4096).astype(np.uint16)
  transform = {'KHR_texture_transform': {'scale': [1 / 4096] * 2}}
  texture = file.texture(extensions=transform)
  file.node(mesh=file.mesh(file.primitive(arrays, file.material(texture=texture))))
  return file, textured_box()


def _stretched() -> tuple[dict, np.ndarray]:
  """Returns a box, and the indices of the corners that lie on the right, which are farther out than in box()."""
  arrays = box()
  right = np.flatnonzero(arrays['POSITION'][:, 0] > 0).astype(np.uint16)
  arrays['POSITION'][right] *= [1.8, 0.6, 0.6]
  return arrays, right


@case
def sparse_positions():
  moved, right = _stretched()
  arrays, file = box(), Gltf()
  position = file.accessor(arrays.pop('POSITION'), sparse=(right, moved['POSITION'][right]))
  material = file.material(texture=file.texture())
  file.node(mesh=file.mesh(file.primitive(arrays, material, accessors={'POSITION': position})))
  return file, scene_with_texture(moved)


@case
def sparse_values_without_a_buffer_view():
  arrays, file = box(), Gltf()
  points = arrays.pop('POSITION')
  some = np.arange(len(points), dtype=np.uint8)
  position = file.accessor(points, sparse=(some, points), stored=False)
  material = file.material(texture=file.texture())
  file.node(mesh=file.mesh(file.primitive(arrays, material, accessors={'POSITION': position})))
  return file, textured_box()


def scene_with_texture(arrays: dict, pixels=None, sampler=None, **info) -> Gltf:
  file = Gltf()
  material = file.material(texture=file.texture(pixels, sampler=sampler, **info))
  file.node(mesh=file.mesh(file.primitive(arrays, material)))
  return file


@case
def second_set_of_texture_coordinates():
  arrays = box()
  arrays['TEXCOORD_1'], arrays['TEXCOORD_0'] = arrays['TEXCOORD_0'], np.full((24, 2), 0.2, np.float32)
  return scene_with_texture(arrays, texCoord=1), textured_box()


@case
def texture_transform_with_offset_and_scale():
  arrays = box()
  plain = arrays | {'TEXCOORD_0': arrays['TEXCOORD_0'] * [0.7, 0.4] + [0.2, 0.5]}
  plain['TEXCOORD_0'] = plain['TEXCOORD_0'].astype(np.float32)
  file = scene_with_texture(arrays, extensions={'KHR_texture_transform': {'offset': [0.2, 0.5], 'scale': [0.7, 0.4]}})
  file.use('KHR_texture_transform')
  return file, scene_with_texture(plain)


@case
def texture_transform_with_rotation():
  # The example of the extension: the lower left quarter of the image, turned clockwise by 90 degrees.
  arrays = box()
  u, v = arrays['TEXCOORD_0'].T
  plain = arrays | {'TEXCOORD_0': np.stack([0.5 * v, 1 - 0.5 * u], axis=-1).astype(np.float32)}
  pixels = squares(np.concatenate([COLORS, COLORS[::-1] // 2], axis=1).repeat(2, 0) // np.array([[[1]], [[2]]] * 2), 16)
  transform = {'offset': [0, 1], 'rotation': np.pi / 2, 'scale': [0.5, 0.5]}
  file = scene_with_texture(arrays, pixels, extensions={'KHR_texture_transform': transform})
  file.use('KHR_texture_transform', required=False)
  return file, scene_with_texture(plain, pixels)


@case
def texture_transform_of_the_second_set():
  arrays = box()
  plain = arrays | {'TEXCOORD_0': arrays['TEXCOORD_0'] * np.float32(0.5)}
  arrays['TEXCOORD_1'], arrays['TEXCOORD_0'] = arrays['TEXCOORD_0'], np.full((24, 2), 0.2, np.float32)
  transform = {'scale': [0.5, 0.5], 'texCoord': 1}
  file = scene_with_texture(arrays, squares(size=16), extensions={'KHR_texture_transform': transform}, texCoord=0)
  file.use('KHR_texture_transform')
  return file, scene_with_texture(plain, squares(size=16))


def _tiled(mode: int, expected: Callable) -> tuple[Gltf, Gltf]:
  """Returns a box whose texture coordinates run from -1 to 2, and one with the image `expected` of 3 x 3 tiles."""
  arrays = box()
  arrays['TEXCOORD_0'] = arrays['TEXCOORD_0'] * np.float32(3) - 1
  pixels = squares(size=16)
  tiles = np.concatenate(
    [np.concatenate([expected(pixels, row, column) for column in (-1, 0, 1)], 1) for row in (-1, 0, 1)], 0
  )
  return (
    scene_with_texture(arrays, pixels, NEAREST | {'wrapS': mode, 'wrapT': mode}),
    scene_with_texture(box(), tiles, NEAREST | dict.fromkeys(('wrapS', 'wrapT'), 10497 if mode == 10497 else 33071)),
  )


@case
def wrap_mode_repeat():
  return _tiled(10497, lambda pixels, row, column: pixels)


@case
def wrap_mode_mirrored_repeat():
  return _tiled(33648, lambda pixels, row, column: pixels[:: -1 if row else 1, :: -1 if column else 1])


@case
def wrap_mode_clamp_to_edge():
  def edge(pixels, row, column):
    rows, columns = (np.clip(np.arange(n) + offset * n, 0, n - 1) for n, offset in zip(pixels.shape, (row, column)))
    return pixels[rows][:, columns]

  return _tiled(33071, edge)


@case
def nearest_filter():
  # With a linear filter, 2 x 2 pixels would be a gradient, and 64 x 64 would not.
  return scene_with_texture(box(), squares(size=1), NEAREST), scene_with_texture(box(), squares(size=32), NEAREST)


@case
def triangle_strip_and_fan():
  file, plain = Gltf(), box()
  material = file.material(texture=file.texture())
  strips = []
  for face, mode in enumerate((5, 6) * 3):
    arrays = {name: values[4 * face : 4 * face + 4] for name, values in plain.items() if name != 'indices'}
    arrays['indices'] = np.array([0, 1, 3, 2] if mode == 5 else [0, 1, 2, 3], np.uint16)
    strips.append(file.primitive(arrays, material, mode=mode))
  file.node(mesh=file.mesh(*strips))
  return file, textured_box()


@case
def triangles_without_indices():
  plain = box()
  indices = plain.pop('indices')
  return scene_with_texture({name: values[indices] for name, values in plain.items()}), textured_box()


@case
def indices_of_one_byte():
  arrays = box()
  arrays['indices'] = arrays['indices'].astype(np.uint8)
  return scene_with_texture(arrays), textured_box()


@case
def interleaved_vertices():
  arrays, file = box(), Gltf()
  names = ('POSITION', 'NORMAL', 'TEXCOORD_0')
  data = np.concatenate([arrays[name] for name in names], axis=1)
  view, start, accessors = file.view(data.tobytes(), byteStride=32), 0, {}
  for name in names:
    width = arrays[name].shape[1]
    entry = {'bufferView': view, 'byteOffset': start, 'componentType': 5126, 'count': 24, 'type': f'VEC{width}'}
    if name == 'POSITION':
      entry |= {'min': arrays[name].min(0).tolist(), 'max': arrays[name].max(0).tolist()}
    accessors[name] = file.append('accessors', entry)
    start += 4 * width
  primitive = file.primitive({'indices': arrays['indices']}, file.material(texture=file.texture()), accessors=accessors)
  file.node(mesh=file.mesh(primitive))
  return file, textured_box()


@case
def hierarchy_of_nodes():
  file = Gltf()
  mesh = file.mesh(file.primitive(box(), file.material(texture=file.texture())))
  child = file.node(root=False, mesh=mesh, scale=[1.0, 2.0, 0.5])
  matrix = np.eye(4)
  matrix[:3, :3] = turned(np.eye(3), axis=1).T
  matrix[:3, 3] = 3, 4, 5
  parent = file.node(root=False, matrix=matrix.T.reshape(-1).tolist(), children=[child])
  file.node(rotation=quaternion(), children=[parent])
  arrays = box((1.0, 1.4, 0.25))
  for name in ('POSITION', 'NORMAL'):
    arrays[name] = turned(turned(arrays[name], axis=1) + (np.float32([3, 4, 5]) if name == 'POSITION' else 0))
  return file, scene_with_texture(arrays)


def _skinned(sets: int) -> tuple[Gltf, Gltf]:
  """Returns a box whose right half follows a second joint; joints and weights are split over `sets` attributes."""
  arrays, file = box((2.0, 0.5, 0.5)), Gltf()
  file.node()
  file.node(translation=[0.0, 0.8, 0.0], rotation=quaternion())
  right = arrays['POSITION'][:, 0] > 0
  weights = np.zeros((24, 4 * sets), np.float32)
  weights[~right, 0], weights[right, -1] = 1.0, 1.0
  joints = np.zeros((24, 4 * sets), np.uint8)
  joints[right, -1] = 1
  for number in range(sets):
    columns = slice(4 * number, 4 * number + 4)
    arrays |= {f'JOINTS_{number}': joints[:, columns], f'WEIGHTS_{number}': weights[:, columns]}
  inverse = np.tile(np.eye(4, dtype=np.float32), (2, 1, 1))
  inverse[1, 3, 0] = -0.3  # Column-major: moves by -0.3 along x.
  skin = file.append('skins', {'joints': [0, 1], 'inverseBindMatrices': file.accessor(inverse.reshape(2, 16))})
  mesh = file.mesh(file.primitive(arrays, file.material(texture=file.texture())))
  file.node(mesh=mesh, skin=skin, translation=[5.0, 5.0, 5.0])  # The transform of a skinned node has no effect.
  plain = box((2.0, 0.5, 0.5))
  moved = turned(plain['POSITION'] - np.float32([0.3, 0, 0])) + np.float32([0, 0.8, 0])
  plain['POSITION'][right] = moved[right]
  plain['NORMAL'][right] = turned(plain['NORMAL'])[right]
  return file, scene_with_texture(plain)


@case
def skin():
  return _skinned(1)


@case
def skin_with_eight_weights():
  return _skinned(2)


def _morphed(on_node: bool) -> tuple[Gltf, Gltf]:
  moved, _ = _stretched()
  arrays, file = box(), Gltf()
  delta = moved['POSITION'] - arrays['POSITION']
  targets = [{'POSITION': file.accessor(2 * delta)}, {'POSITION': file.accessor(np.ones_like(delta))}]
  primitive = file.primitive(arrays, file.material(texture=file.texture()), targets=targets)
  weights = {'weights': [0.5, 0.0]}
  file.node(
    mesh=file.mesh(primitive, **({'weights': [0.0, 1.0]} if on_node else weights)), **(weights if on_node else {})
  )
  return file, scene_with_texture(moved)


@case
def morph_weights_of_the_mesh():
  return _morphed(False)


@case
def morph_weights_of_the_node():
  return _morphed(True)


@case
def sparse_morph_target_of_a_quantized_mesh():
  moved, right = _stretched()
  arrays, file = box(), Gltf()
  file.use('KHR_mesh_quantization')
  delta = np.round((moved['POSITION'] - arrays['POSITION'])[right] * 10000).astype(np.int16)
  arrays['POSITION'] = np.round(arrays['POSITION'] * 10000).astype(np.int16)
  target = file.accessor(np.zeros((24, 3), np.int16), sparse=(right, delta), stored=False)
  primitive = file.primitive(arrays, file.material(texture=file.texture()), targets=[{'POSITION': target}])
  file.node(mesh=file.mesh(primitive, weights=[1.0]), scale=[1e-4] * 3)
  return file, scene_with_texture(moved)


@case
def instances_with_rotation_and_scale():
  file = Gltf()
  file.use('EXT_mesh_gpu_instancing')
  mesh = file.mesh(file.primitive(box((0.6, 0.3, 0.2)), file.material(texture=file.texture())))
  shifts, scales = np.float32([[-1, 0, 0], [0, 0.2, 0], [1, 0, 0.3]]), np.float32([[1, 1, 1], [1, 2, 1], [1.5] * 3])
  rotations = np.float32([quaternion(angle=angle) for angle in (0.0, 0.5, 1.0)])
  attributes = {
    'TRANSLATION': file.accessor(shifts),
    'ROTATION': file.accessor(np.round(rotations * 32767).astype(np.int16), normalized=True),
    'SCALE': file.accessor(scales),
  }
  file.node(mesh=mesh, extensions={'EXT_mesh_gpu_instancing': {'attributes': attributes}}, rotation=quaternion(1))
  plain = Gltf()
  material = plain.material(texture=plain.texture())
  for shift, scale, angle in zip(shifts, scales, (0.0, 0.5, 1.0)):
    arrays = box((0.6, 0.3, 0.2))
    arrays['POSITION'] = turned(turned(arrays['POSITION'] * scale, angle=angle) + shift, axis=1)
    arrays['NORMAL'] = turned(turned(arrays['NORMAL'], angle=angle), axis=1)
    plain.node(mesh=plain.mesh(plain.primitive(arrays, material)))
  return file, plain


@case
def instances_of_a_mesh_with_two_materials():
  file, plain = Gltf(), Gltf()
  file.use('EXT_mesh_gpu_instancing')
  parts = [(box((0.4, 0.4, 0.4), (0, y, 0)), color) for y, color in ((0.0, RED), (0.5, BLUE))]
  mesh = file.mesh(*(file.primitive(arrays, file.material(color=color)) for arrays, color in parts))
  shifts = np.float32([[-0.5, 0, 0], [0.5, 0, 0]])
  file.node(mesh=mesh, extensions={'EXT_mesh_gpu_instancing': {'attributes': {'TRANSLATION': file.accessor(shifts)}}})
  mesh = plain.mesh(*(plain.primitive(arrays, plain.material(color=color)) for arrays, color in parts))
  for shift in shifts:
    plain.node(mesh=mesh, translation=shift.tolist())
  return file, plain


@case
def emission_with_strength():
  strong = dict(
    emissiveFactor=[0.05, 0.1, 0.15], extensions={'KHR_materials_emissive_strength': {'emissiveStrength': 4}}
  )
  file = scene((box(), dict(color=DARK) | strong))
  file.use('KHR_materials_emissive_strength')
  return file, scene((box(), dict(color=DARK, emissiveFactor=[0.2, 0.4, 0.6])))


@case
def emission_texture():
  file = Gltf()
  glow = file.texture()
  material = file.material(color=(0, 0, 0), emissiveTexture=glow, emissiveFactor=[1, 1, 1])
  file.node(mesh=file.mesh(file.primitive(box(), material)))
  plain = Gltf()
  glow = plain.texture(squares(COLORS[:, ::-1]))
  arrays = box()
  arrays['TEXCOORD_0'] = (arrays['TEXCOORD_0'] * [-1, 1] + [1, 0]).astype(np.float32)
  material = plain.material(color=(0, 0, 0), emissiveTexture=glow, emissiveFactor=[1, 1, 1])
  plain.node(mesh=plain.mesh(plain.primitive(arrays, material)))
  return file, plain


def _with_alpha(alpha: list) -> np.ndarray:
  """Returns the image of four colours with an alpha [2, 2] for each."""
  return squares(np.concatenate([COLORS, np.array(alpha, np.uint8)[..., None]], axis=-1))


def _without_left_quarter(arrays: dict) -> dict:
  """Returns the faces of box() without the quarter on the left, in texture coordinates."""
  result = {name: values.copy() for name, values in arrays.items()}
  for name in ('POSITION', 'TEXCOORD_0'):
    faces = result[name].reshape(6, 4, -1)
    faces[:, [0, 3]] = 0.75 * faces[:, [0, 3]] + 0.25 * faces[:, [1, 2]]
  return result


@case
def alpha_mask_with_a_cutoff():
  file = Gltf()
  pixels = _with_alpha([[220, 220], [220, 220]])
  pixels[:, :16, 3] = 180
  texture = file.texture(pixels, sampler=NEAREST)
  material = file.material(texture=texture, alphaMode='MASK', alphaCutoff=0.8, doubleSided=True)
  file.node(mesh=file.mesh(file.primitive(box(), material)))
  plain = Gltf()
  material = plain.material(texture=plain.texture(sampler=NEAREST), doubleSided=True)
  plain.node(mesh=plain.mesh(plain.primitive(_without_left_quarter(box()), material)))
  for each in (file, plain):  # Fills the hollow, where only Cycles has shadows.
    inside = box((0.98, 0.686, 0.49))
    each.node(mesh=each.mesh(each.primitive(inside, each.material(color=BLUE))))
  return file, plain


@case
def opaque_material_ignores_alpha():
  return scene_with_texture(box(), _with_alpha([[0, 100], [180, 255]])), textured_box()


@case
def blended_material_that_is_opaque():
  file = textured_box(alphaMode='BLEND', color=(1, 1, 1))
  return file, textured_box()


@case
def alpha_of_factor_and_texture():
  file, plain = Gltf(), Gltf()
  for each, color, alpha in ((file, (1, 1, 1, 0.6), 128), (plain, (1, 1, 1, 1), round(0.6 * 128))):
    texture = each.texture(_with_alpha([[alpha] * 2] * 2))
    arrays = {name: values[:4] if name != 'indices' else values[:6] for name, values in box((1, 1, 1)).items()}
    material = each.material(color=color, texture=texture, alphaMode='BLEND', doubleSided=True)
    each.node(mesh=each.mesh(each.primitive(arrays, material)))
    each.node(mesh=each.mesh(each.primitive(box((0.1, 1, 1)), each.material(color=RED))))
  return file, plain


def _open_box(inside: tuple, outside: tuple, **options) -> Gltf:
  """Returns a box of two walls that are seen from outside and from inside."""
  arrays = box()
  faces = arrays['indices'].reshape(6, 6)[[0, 3]]
  file = Gltf()
  for indices, color in ((faces, outside), (faces[:, ::-1], inside)):
    some = arrays | {'indices': indices.reshape(-1)}
    if indices is not faces:
      some |= {'NORMAL': -arrays['NORMAL']}
    if color is not None:
      file.node(mesh=file.mesh(file.primitive(some, file.material(color=color, **options))))
  return file


@case
def single_sided_walls_are_seen_from_the_front_only():
  # The walls whose backs face the camera are missing: only a box around them is seen through the gap.
  file, plain = _open_box(None, RED), Gltf()
  for each in (file, plain):
    each.node(mesh=each.mesh(each.primitive(box((0.4, 0.3, 0.2)), each.material(color=BLUE))))
  arrays = box()
  faces = arrays['indices'].reshape(6, 6)
  material = plain.material(color=RED)
  plain.node(mesh=plain.mesh(plain.primitive(arrays | {'indices': faces[[0, 3]].reshape(-1)}, material)))
  return file, plain


@case
def double_sided_walls_have_the_same_colour_on_both_sides():
  file, plain = _open_box(None, RED, doubleSided=True), _open_box(RED, RED)
  for each in (file, plain):
    each.node(mesh=each.mesh(each.primitive(box((0.4, 0.3, 0.2)), each.material(color=BLUE))))
  return file, plain


@case
def mirrored_node_keeps_its_front():
  file = Gltf()
  arrays = {name: values[:4] if name != 'indices' else values[:6] for name, values in box((0.3, 1, 1)).items()}
  mesh = file.mesh(file.primitive(arrays, file.material(texture=file.texture())))
  file.node(mesh=mesh)
  file.node(mesh=mesh, scale=[-1.0, 1.0, 1.0])
  plain = Gltf()
  material = plain.material(texture=plain.texture())
  plain.node(mesh=plain.mesh(plain.primitive(arrays, material)))
  mirrored = arrays | {name: arrays[name] * np.float32([-1, 1, 1]) for name in ('POSITION', 'NORMAL')}
  mirrored['indices'] = arrays['indices'][::-1].copy()
  plain.node(mesh=plain.mesh(plain.primitive(mirrored, material)))
  for each in (file, plain):  # Seen from all sides, so that no view is empty.
    each.node(mesh=each.mesh(each.primitive(box((0.25, 0.6, 0.6)), each.material(color=BLUE))))
  return file, plain


@case
def vertex_colours_times_texture():
  arrays, file = box(), Gltf()
  arrays['COLOR_0'] = np.tile(np.array([128, 255, 51], np.uint8), (24, 1))
  file.node(mesh=file.mesh(file.primitive(arrays, file.material(texture=file.texture()), normalized=['COLOR_0'])))
  return file, textured_box(color=(128 / 255, 1.0, 0.2))


@case
def vertex_colours_of_sixteen_bits_and_a_factor():
  arrays, file = box(), Gltf()
  arrays['COLOR_0'] = np.tile(np.array([40000, 20000, 10000, 65535], np.uint16), (24, 1))
  file.node(mesh=file.mesh(file.primitive(arrays, file.material(color=(0.5, 1, 1)), normalized=['COLOR_0'])))
  return file, scene((box(), dict(color=(40000 / 65535 / 2, 20000 / 65535, 10000 / 65535))))


@case
def webp_texture():
  file = Gltf()
  file.node(mesh=file.mesh(file.primitive(box(), file.material(texture=file.texture(format='WEBP')))))
  return file, textured_box()


@case
def unlit_material_with_vertex_colours():
  file, plain = Gltf(), Gltf()
  unlit = {'KHR_materials_unlit': {}}
  arrays = box()
  arrays['COLOR_0'] = np.tile(np.float32([0.5, 0.2, 1.0, 1.0]), (24, 1))
  material = file.material(color=(0.5, 1.0, 0.02), emissiveFactor=[1, 1, 1], extensions=unlit)
  file.node(mesh=file.mesh(file.primitive(arrays, material)))
  material = plain.material(color=(0.25, 0.2, 0.02), metallic=1.0, roughness=0.0, extensions=unlit)
  plain.node(mesh=plain.mesh(plain.primitive(box(), material)))
  for each in (file, plain):
    each.use('KHR_materials_unlit')
  return file, plain


@case
def unlit_material_with_texture_transform_and_nearest_filter():
  transform = {'KHR_texture_transform': {'offset': [0.5, 0.0], 'scale': [0.5, 1.0]}}
  file, plain = Gltf(), Gltf()
  texture = file.texture(squares(size=1), sampler=NEAREST, extensions=transform)
  unlit = {'KHR_materials_unlit': {}}
  file.node(mesh=file.mesh(file.primitive(box(), file.material(texture=texture, extensions=unlit))))
  texture = plain.texture(squares(COLORS[:, 1:]), sampler=NEAREST | {'wrapS': 33071})
  plain.node(mesh=plain.mesh(plain.primitive(box(), plain.material(texture=texture, extensions=unlit))))
  for each in (file, plain):
    each.use('KHR_materials_unlit', 'KHR_texture_transform')
  return file, plain


@case
def metalness_and_roughness_texture():
  file, plain = Gltf(), Gltf()
  pixels = np.zeros((4, 4, 3), np.uint8)
  pixels[..., 1:] = 128, 255
  surface = file.texture(pixels)
  material = file.material(color=RED, metallic=1.0, roughness=1.0)
  file.document['materials'][material]['pbrMetallicRoughness']['metallicRoughnessTexture'] = surface
  file.node(mesh=file.mesh(file.primitive(box(), material)))
  plain.node(mesh=plain.mesh(plain.primitive(box(), plain.material(color=RED, metallic=1.0, roughness=128 / 255))))
  return file, plain


@case
def file_without_normals_is_flat():
  arrays = box()
  del arrays['NORMAL']
  return scene_with_texture(arrays), textured_box()


@case
def chosen_scene():
  file = textured_box()
  other = file.mesh(file.primitive(box((0.3, 3.0, 0.3)), file.material(color=BLUE)))
  file.document['scenes'].append({'nodes': [file.append('nodes', {'mesh': other})]})
  file.document['scenes'].reverse()
  file.document['scene'] = 1
  return file, textured_box()


@case
def hidden_node():
  file = textured_box()
  file.use('KHR_node_visibility')
  other = file.mesh(file.primitive(box((0.3, 3.0, 0.3)), file.material(color=BLUE)))
  child = file.node(root=False, mesh=other)
  file.node(children=[child], extensions={'KHR_node_visibility': {'visible': False}})
  return file, textured_box()


@case
def points_and_lines_beside_triangles():
  file = textured_box()
  loose = {'POSITION': np.float32([[0, 0, 0], [0.1, 0.1, 0.1]])}
  for mode in (0, 1):
    file.node(mesh=file.mesh(file.primitive(loose, mode=mode)))
  return file, textured_box()


@case
def draco():
  import DracoPy

  arrays, file = box(), Gltf()
  indices = arrays.pop('indices')
  data = DracoPy.encode(
    arrays['POSITION'],
    indices.reshape(-1, 3),
    quantization_bits=16,
    tex_coord=arrays['TEXCOORD_0'].astype(float),
    normals=arrays['NORMAL'].astype(float),
    preserve_order=True,
  )
  numbers = {
    {0: 'POSITION', 1: 'NORMAL', 3: 'TEXCOORD_0'}[attribute['attribute_type']]: attribute['unique_id']
    for attribute in DracoPy.decode(data).attributes
  }
  accessors = {}
  for name, values in arrays.items():
    entry = {'componentType': 5126, 'count': 24, 'type': f'VEC{values.shape[1]}'}
    accessors[name] = file.append(
      'accessors',
      entry | ({'min': values.min(0).tolist(), 'max': values.max(0).tolist()} if name == 'POSITION' else {}),
    )
  file.use('KHR_draco_mesh_compression')
  compressed = {'bufferView': file.view(data), 'attributes': numbers}
  primitive = file.primitive(
    {},
    file.material(texture=file.texture()),
    accessors=accessors,
    extensions={'KHR_draco_mesh_compression': compressed},
    indices=file.append('accessors', {'componentType': 5123, 'count': 36, 'type': 'SCALAR'}),
  )
  file.node(mesh=file.mesh(primitive))
  return file, textured_box()
