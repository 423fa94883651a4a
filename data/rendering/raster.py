"""The engine `raster`: OpenGL through EGL, on a GPU or with Mesa's llvmpipe; needs no display. Reads GLB, glTF and OBJ.

The light is ambient, plus suns without shadows. Unlike Cycles, there is no ambient occlusion and no indirect light, so
convex objects have the colours of Cycles, and hollows are lighter. Colours are linear until the image is complete.
Antialiasing is 4 x multisampling with 2 x 2 supersampling. Transparent triangles are drawn back to front.

On the device, objects are centred at the origin and have radius 1, so that single precision suffices for any object.
"""

import dataclasses
from pathlib import Path

import moderngl
import numpy as np

from . import gltf, obj, reflectance, shaders, surfaces
from .presets import Light
from .scene import Y_UP_TO_Z_UP, Geometry
from .surfaces import Material, Surface, Texture

_SUPER, _SAMPLES = 2, 4
_SRGB8_ALPHA8 = 0x8C43
_MAX_SUNS = 4
_COARSEST = 0.01  # steps between positions in a file, as a share of the radius of the object


class Raster:
  """Implements `scene.Engine` with OpenGL; the constructor raises ValueError if EGL is not available."""

  name = 'raster'
  kinds = ('.glb', '.gltf', '.obj')
  z_up = ()

  def __init__(self):
    try:
      self.gl = moderngl.create_context(standalone=True, backend='egl')
    except Exception as error:  # moderngl raises plain Exception.
      raise ValueError(
        f'OpenGL through EGL is not available ({error}): install Mesa (Debian: libegl1 libegl-mesa0 '
        'libgl1-mesa-dri libgl1), or use --engine=cycles'
      ) from error
    self._programs = [self.gl.program(shaders.VERTEX, fragment) for fragment in (shaders.COLOR, shaders.GEOMETRY)]
    table = reflectance.table().astype('f4')
    self._table = self.gl.texture(table.shape[1::-1], 4, table.tobytes(), dtype='f4')
    self._table.repeat_x = self._table.repeat_y = False
    self.white = self.gl.texture((1, 1), 4, b'\xff' * 4)
    self._parts, self._textures, self._targets, self._light = [], {}, {}, Light()
    self._centre, self._radius = np.zeros(3), 1.0

  def load(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
    for resource in (*self._parts, *self._textures.values()):
      resource.release()
    self._parts, self._textures = [], {}
    found = [surface.without_unused_vertices() for surface in _read(path)]
    vertices, triangles, count = [np.empty((0, 3))], [np.empty((0, 3), int)], 0
    for surface in found:
      if not np.all(np.isfinite(surface.points)):
        raise ValueError('the mesh has vertices with NaN or infinite values')
      vertices.append(surface.points @ Y_UP_TO_Z_UP[:3, :3].T)
      triangles.append(surface.triangles + count)
      count += len(surface.points)
    points = np.concatenate(vertices)
    if count:
      self._centre = (points.min(0) + points.max(0)) / 2
      self._radius = float(np.linalg.norm(points - self._centre, axis=-1).max()) or 1.0
      _check_precision(found, self._radius)
    by_material: dict[int, list[Surface]] = {}
    for surface, moved in zip(found, vertices[1:]):
      normals = None if surface.normals is None else surface.normals @ Y_UP_TO_Z_UP[:3, :3].T
      near = dataclasses.replace(surface, points=(moved - self._centre) / self._radius, normals=normals)
      by_material.setdefault(id(surface.material), []).append(near.with_normals())
    self._parts = [_Part(self, some) for some in by_material.values()]
    return points, np.concatenate(triangles)

  def light(self, light: Light) -> None:
    self._light = light

  def render(self, pose: np.ndarray, fov: float, size: int) -> np.ndarray:
    drawn, resolved, _ = self._target(size)
    drawn.use()
    drawn.clear(0.0, 0.0, 0.0, 0.0)
    self.gl.enable(moderngl.DEPTH_TEST)
    program = self._programs[0]
    suns = [(*direction, strength) for direction, strength in self._light.suns[:_MAX_SUNS]]
    program['ambient'], program['num_suns'] = self._light.ambient, len(suns)
    program['suns'] = suns + [(0.0, 0.0, 1.0, 0.0)] * (_MAX_SUNS - len(suns))
    program['table'] = 3
    self._table.use(3)
    eye = self._camera(program, pose, fov)
    for part in self._parts:
      if not part.blended:
        part.draw(program)
    self.gl.enable(moderngl.BLEND)
    self.gl.blend_func = moderngl.ONE, moderngl.ONE_MINUS_SRC_ALPHA
    drawn.depth_mask = False
    for part in sorted((part for part in self._parts if part.blended), key=lambda part: -part.distance(eye)):
      part.draw(program, eye)
    drawn.depth_mask = True
    self.gl.disable(moderngl.BLEND)
    self.gl.copy_framebuffer(resolved, drawn)
    pixels = np.frombuffer(resolved.read(components=4, dtype='f4'), np.float32)
    pixels = pixels.reshape(size, _SUPER, size, _SUPER, 4)[::-1]
    # The mean over both axes by slices: `mean(axis=(1, 3))` takes ten times as long.
    pixels = sum(pixels[:, i, :, j] for i in range(_SUPER) for j in range(_SUPER)) / _SUPER**2
    alpha = pixels[..., 3:]
    linear = np.clip(pixels[..., :3] / np.maximum(alpha, 1e-6), 0, 1)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.round(np.concatenate([srgb, np.clip(alpha, 0, 1)], axis=-1) * 255).astype(np.uint8)

  def geometry(self, pose: np.ndarray, fov: float, size: int) -> Geometry:
    _, _, target = self._target(size)
    target.use()
    target.clear(0.0, 0.0, 0.0, 0.0)
    self.gl.enable(moderngl.DEPTH_TEST)
    self._camera(self._programs[1], pose, fov)
    for part in self._parts:
      part.draw(self._programs[1])
    pixels = np.frombuffer(target.read(components=4, dtype='f4'), np.float32).reshape(size, size, 4)[::-1]
    return Geometry(pixels[..., 3] * np.float32(self._radius), pixels[..., :3].copy())

  def describe(self) -> dict:
    return {'opengl': self.gl.info['GL_RENDERER'], 'moderngl': moderngl.__version__}

  def texture(self, texture: Texture | None, *, srgb: bool) -> moderngl.Texture:
    """Returns a texture on the device, which is shared by all materials that use it; white if it is None."""
    if texture is None:
      return self.white
    key = texture.image, texture.wrap, texture.filters, srgb
    if key not in self._textures:
      self._textures[key] = self._upload(texture, srgb)
    return self._textures[key]

  def _upload(self, texture: Texture, srgb: bool) -> moderngl.Texture:
    pixels = surfaces.shrunk(texture.pixels(), self.gl.info['GL_MAX_TEXTURE_SIZE'] // 2)
    for axis, mode in zip((1, 0), texture.wrap):
      if mode == surfaces.MIRROR:  # moderngl lacks this mode: repeat the image and its mirror image.
        pixels = np.concatenate([pixels, np.flip(pixels, axis)], axis)
    pixels = np.ascontiguousarray(pixels)
    loaded = self.gl.texture(pixels.shape[1::-1], 4, pixels.tobytes(), internal_format=_SRGB8_ALPHA8 if srgb else None)
    loaded.repeat_x, loaded.repeat_y = (mode != surfaces.CLAMP for mode in texture.wrap)
    if texture.filters[0] not in (surfaces.NEAREST, surfaces.LINEAR):
      loaded.build_mipmaps()
    loaded.filter = texture.filters
    return loaded

  def _camera(self, program, pose, fov) -> np.ndarray:
    """Sets the camera of a program, and returns its position on the device. The object lies between the planes."""
    pose = pose.copy()
    pose[:3, 3] = (pose[:3, 3] - self._centre) / self._radius
    distance = np.linalg.norm(pose[:3, 3])
    near, far, focal = max(distance - 1.01, 0.01), distance + 1.01, 1 / np.tan(np.deg2rad(fov) / 2)
    projection = np.array(
      [
        [focal, 0, 0, 0],
        [0, focal, 0, 0],
        [0, 0, (far + near) / (near - far), 2 * far * near / (near - far)],
        [0, 0, -1, 0],
      ]
    )
    program['to_clip'].write((projection @ np.linalg.inv(pose)).T.astype('f4').tobytes())
    program['eye'] = tuple(pose[:3, 3])
    return pose[:3, 3]

  def _target(self, size: int):
    """Returns the framebuffers (multisampled colour, resolved colour, geometry with one sample per pixel)."""
    if size not in self._targets:
      large = (_SUPER * size,) * 2
      drawn = self.gl.framebuffer(
        self.gl.renderbuffer(large, 4, samples=_SAMPLES, dtype='f2'),
        self.gl.depth_renderbuffer(large, samples=_SAMPLES),
      )
      resolved = self.gl.framebuffer(self.gl.renderbuffer(large, 4, dtype='f2'))
      plain = self.gl.framebuffer(
        self.gl.renderbuffer((size, size), 4, dtype='f4'), self.gl.depth_renderbuffer((size, size))
      )
      self._targets[size] = drawn, resolved, plain
    return self._targets[size]


class _Part:
  """All surfaces with one material, in the memory of the OpenGL device."""

  def __init__(self, raster: Raster, some: list[Surface]):
    self._gl, material = raster.gl, some[0].material
    self.blended, self._culled = material.mode == 'BLEND', not material.double_sided
    self._maps = {
      'base_map': raster.texture(material.base_texture, srgb=True),
      'surface_map': raster.texture(material.surface_texture, srgb=material.glossy_color is not None),
      'glow_map': raster.texture(material.emission_texture, srgb=True),
    }
    self._values = {
      'factor': material.base_color,
      'cutoff': material.cutoff if material.mode == 'MASK' else 0.0,
      'opaque': material.mode != 'BLEND',
      'metallic': material.metallic,
      'roughness': material.roughness,
      'specular': material.specular,
      'glossy': material.glossy_color is not None,
      'glossy_color': material.glossy_color or (0.0, 0.0, 0.0),
      'emission': material.emission,
      'unlit': material.unlit,
    }
    starts = np.cumsum([0, *(len(surface.points) for surface in some)])
    self._faces = np.concatenate([s.triangles + start for s, start in zip(some, starts)]).astype('i4')
    data = np.concatenate([_vertex_data(surface, material) for surface in some])
    self._centres = data[self._faces, :3].mean(axis=1)
    self._buffer = self._gl.buffer(data.tobytes())
    self._indices = self._gl.buffer(self._faces.tobytes())
    self._arrays = {}

  def draw(self, program, eye: np.ndarray | None = None) -> None:
    """Draws the surfaces; if `eye` is given, their triangles are sorted from far to near."""
    if eye is not None:
      order = np.argsort(-np.linalg.norm(self._centres - eye, axis=-1))
      self._indices.write(self._faces[order].tobytes())
    if program not in self._arrays:
      layout = ' '.join(form if name in program else f'{int(form[0]) * 4}x' for name, form in _LAYOUT)
      names = [name for name, _ in _LAYOUT if name in program]
      self._arrays[program] = self._gl.vertex_array(program, [(self._buffer, layout, *names)], self._indices)
    for name, value in self._values.items():
      if name in program:
        program[name] = value
    for place, (name, texture) in enumerate(self._maps.items()):
      if name in program:
        program[name] = place
        texture.use(place)
    (self._gl.enable if self._culled else self._gl.disable)(moderngl.CULL_FACE)
    self._arrays[program].render()

  def distance(self, eye: np.ndarray) -> float:
    """Returns the distance between the centre of the surfaces and a camera."""
    return float(np.linalg.norm(self._centres.mean(axis=0) - eye))

  def release(self) -> None:
    """Frees the memory on the device, except textures, which parts share."""
    for resource in (*self._arrays.values(), self._buffer, self._indices):
      resource.release()


_LAYOUT = (
  ('position', '3f'),
  ('normal', '3f'),
  ('base_uv', '2f'),
  ('surface_uv', '2f'),
  ('glow_uv', '2f'),
  ('color', '4f'),
)


def _vertex_data(surface: Surface, material: Material) -> np.ndarray:
  """Returns the attributes of `_LAYOUT` of all vertices [K, 16]."""
  count, uvs = len(surface.points), []
  for texture in (material.base_texture, material.surface_texture, material.emission_texture):
    uv = np.zeros((count, 2)) if texture is None else texture.coordinates(surface.uvs, count)
    mirrored = texture is not None and np.array(texture.wrap) == surfaces.MIRROR
    uvs.append(np.where(mirrored, uv / 2, uv))  # The image on the device has its mirror image beside it.
  colors = np.ones((count, 4)) if surface.colors is None else surface.colors
  # NaN in a normal, a coordinate or a colour would spoil whole pixels.
  return np.nan_to_num(np.concatenate([surface.points, surface.normals, *uvs, colors], axis=1)).astype('f4')


def _read(path: Path) -> list[Surface]:
  return obj.read(path) if path.suffix.lower() == '.obj' else gltf.read(path)


def _check_precision(found: list[Surface], radius: float) -> None:
  """Raises ValueError if positions in single precision are too far from the origin of their mesh to be exact."""
  step = max(surface.precision for surface in found)
  if step > _COARSEST * radius:
    raise ValueError(
      f'positions in the file are single-precision numbers so far from the origin that their steps, {step:.2g}, are '
      f'{step / radius:.0%} of the radius of the object: move the mesh to the origin before exporting it'
    )
