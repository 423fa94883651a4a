"""The engine `raster`: OpenGL through EGL, on a GPU or with Mesa's llvmpipe; needs no display. Reads GLB, glTF and OBJ.

The light is ambient, plus suns without shadows, so a rough surface has its own colour. Unlike Cycles, there is no
ambient occlusion and no indirect light. Dielectrics reflect a white environment by Fresnel's law (Schlick 1994), metals
by their colour. Colours are linear until the image is complete. Antialiasing is 4 x multisampling with 2 x 2
supersampling. Transparent triangles are drawn back to front.
"""

from pathlib import Path

import moderngl
import numpy as np
import trimesh

from . import textures
from .presets import Light
from .scene import Y_UP_TO_Z_UP, Geometry

_SUPER, _SAMPLES = 2, 4
_SRGB8_ALPHA8 = 0x8C43
_MAX_SUNS = 4

_VERTEX = """
#version 330
uniform mat4 to_clip;
in vec3 position; in vec3 normal; in vec2 uv; in vec4 color;
out vec3 place; out vec3 facing; out vec2 at; out vec4 tint;
void main() {
  place = position; facing = normal; at = uv; tint = color;
  gl_Position = to_clip * vec4(position, 1.0);
}
"""
_ALPHA = """
uniform sampler2D texture_; uniform vec4 factor; uniform float cutoff; uniform vec3 eye;
in vec3 place; in vec3 facing; in vec2 at; in vec4 tint;
vec4 base() {
  vec4 color = factor * tint * texture(texture_, at);
  if (color.a < cutoff) discard;
  return color;
}
"""
_COLOR = (
  '#version 330\n'
  + _ALPHA
  + """
uniform sampler2D surface; uniform float metallic; uniform float roughness;
uniform sampler2D glow; uniform vec3 emission;
uniform float ambient; uniform int num_suns; uniform vec4 suns[4]; uniform bool opaque;
out vec4 result;
void main() {
  vec4 color = base();
  vec3 to_eye = normalize(eye - place);
  vec3 n = normalize(facing);
  n = dot(n, to_eye) < 0.0 ? -n : n;
  vec3 light = vec3(ambient);
  for (int i = 0; i < num_suns; i++) light += suns[i].w * max(dot(n, suns[i].xyz), 0.0);
  vec4 maps = texture(surface, at);
  float metal = metallic * maps.b, rough = roughness * maps.g;
  float grazing = pow(1.0 - clamp(dot(n, to_eye), 0.0, 1.0), 5.0) * (1.0 - 0.7 * rough);
  vec3 f0 = mix(vec3(0.04), color.rgb, metal);
  vec3 mirrored = f0 + (max(vec3(1.0 - rough), f0) - f0) * grazing;
  vec3 matt = color.rgb * (1.0 - metal) * (1.0 - mirrored);
  float alpha = opaque ? 1.0 : color.a;
  vec3 shines = emission * texture(glow, at).rgb;
  result = vec4((matt * light + mirrored * ambient + shines) * alpha, alpha);
}
"""
)
_GEOMETRY = (
  '#version 330\n'
  + _ALPHA
  + """
out vec4 result;
void main() {
  if (base().a < 0.5) discard;
  vec3 to_eye = eye - place;
  vec3 n = normalize(cross(dFdx(place), dFdy(place)));
  result = vec4(dot(n, to_eye) < 0.0 ? -n : n, length(to_eye));
}
"""
)


class Raster:
  """Implements `scene.Engine` with OpenGL; the constructor raises ValueError if EGL is not available."""

  name = 'raster'
  kinds = ('.glb', '.gltf', '.obj')

  def __init__(self):
    try:
      self._gl = moderngl.create_context(standalone=True, backend='egl')
    except Exception as error:  # moderngl raises plain Exception.
      raise ValueError(
        f'OpenGL through EGL is not available ({error}): install Mesa (Debian: libegl1 libegl-mesa0 '
        'libgl1-mesa-dri libgl1), or use --engine=cycles'
      ) from error
    self._programs = [self._gl.program(_VERTEX, fragment) for fragment in (_COLOR, _GEOMETRY)]
    self._white = self._texture(np.full((1, 1, 4), 255, np.uint8), srgb=False)
    self._parts, self._targets, self._light = [], {}, Light()

  def load(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
    for part in self._parts:
      part.release()
    self._parts = []
    textures.check(path)
    scene = trimesh.load_scene(path, process=False, maintain_order=True)
    vertices, triangles, count = [np.empty((0, 3))], [np.empty((0, 3), int)], 0
    for name in scene.graph.nodes_geometry:
      transform, geometry = scene.graph[name]
      mesh = scene.geometry[geometry]
      if not isinstance(mesh, trimesh.Trimesh) or not len(mesh.faces):
        continue
      matrix = Y_UP_TO_Z_UP @ transform
      points = mesh.vertices @ matrix[:3, :3].T + matrix[:3, 3]
      if not np.all(np.isfinite(points)):
        raise ValueError('the mesh has vertices with NaN or infinite values')
      normals = mesh.vertex_normals @ np.linalg.inv(matrix[:3, :3])
      self._parts.append(_Part(self, mesh, points, normals))
      vertices.append(points)
      triangles.append(mesh.faces + count)
      count += len(points)
    return np.concatenate(vertices), np.concatenate(triangles)

  def light(self, light: Light) -> None:
    self._light = light

  def render(self, pose: np.ndarray, fov: float, size: int) -> np.ndarray:
    drawn, resolved, _ = self._target(size)
    drawn.use()
    drawn.clear(0.0, 0.0, 0.0, 0.0)
    self._gl.enable(moderngl.DEPTH_TEST)
    program = self._programs[0]
    suns = [(*direction, strength) for direction, strength in self._light.suns[:_MAX_SUNS]]
    program['ambient'], program['num_suns'] = self._light.ambient, len(suns)
    program['suns'] = suns + [(0.0, 0.0, 1.0, 0.0)] * (_MAX_SUNS - len(suns))
    self._camera(program, pose, fov)
    for part in self._parts:
      if not part.blended:
        part.draw(program)
    self._gl.enable(moderngl.BLEND)
    self._gl.blend_func = moderngl.ONE, moderngl.ONE_MINUS_SRC_ALPHA
    drawn.depth_mask = False
    for part in sorted((part for part in self._parts if part.blended), key=lambda part: -part.distance(pose)):
      part.draw(program, pose)
    drawn.depth_mask = True
    self._gl.disable(moderngl.BLEND)
    self._gl.copy_framebuffer(resolved, drawn)
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
    self._gl.enable(moderngl.DEPTH_TEST)
    self._camera(self._programs[1], pose, fov)
    for part in self._parts:
      part.draw(self._programs[1])
    pixels = np.frombuffer(target.read(components=4, dtype='f4'), np.float32).reshape(size, size, 4)[::-1]
    return Geometry(pixels[..., 3].copy(), pixels[..., :3].copy())

  def describe(self) -> dict:
    return {'opengl': self._gl.info['GL_RENDERER'], 'moderngl': moderngl.__version__}

  def _camera(self, program, pose, fov):
    extent = max(part.extent for part in self._parts) if self._parts else 1.0
    near, far, focal = 0.01 * extent, 100.0 * extent, 1 / np.tan(np.deg2rad(fov) / 2)
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

  def _target(self, size: int):
    """Returns the framebuffers (multisampled colour, resolved colour, geometry with one sample per pixel)."""
    if size not in self._targets:
      large = (_SUPER * size,) * 2
      drawn = self._gl.framebuffer(
        self._gl.renderbuffer(large, 4, samples=_SAMPLES, dtype='f2'),
        self._gl.depth_renderbuffer(large, samples=_SAMPLES),
      )
      resolved = self._gl.framebuffer(self._gl.renderbuffer(large, 4, dtype='f2'))
      plain = self._gl.framebuffer(
        self._gl.renderbuffer((size, size), 4, dtype='f4'), self._gl.depth_renderbuffer((size, size))
      )
      self._targets[size] = drawn, resolved, plain
    return self._targets[size]

  def _texture(self, pixels: np.ndarray, *, srgb: bool):
    height, width = pixels.shape[:2]
    texture = self._gl.texture(
      (width, height), 4, np.ascontiguousarray(pixels[::-1]).tobytes(), internal_format=_SRGB8_ALPHA8 if srgb else None
    )
    texture.build_mipmaps()
    return texture


class _Part:
  """A mesh with one material, in the memory of the OpenGL device."""

  def __init__(self, raster: Raster, mesh: trimesh.Trimesh, points: np.ndarray, normals: np.ndarray):
    self._raster, material = raster, getattr(mesh.visual, 'material', None)
    if hasattr(material, 'to_pbr'):
      material = material.to_pbr()

    def get(name, default):
      return default if (value := getattr(material, name, None)) is None else value

    self.factor = np.asarray(get('baseColorFactor', (255,) * 4), float)
    self.factor = self.factor / 255 if self.factor.max() > 1 else self.factor
    self.factor = np.pad(self.factor, (0, 4 - len(self.factor)), constant_values=1.0)
    mode = get('alphaMode', 'OPAQUE')
    self.blended, self._opaque = mode == 'BLEND', mode == 'OPAQUE'
    self._cutoff = float(get('alphaCutoff', 0.5)) if mode == 'MASK' else 0.0
    self._metallic, self._roughness = (
      float(get('metallicFactor', 1.0 if material is not None else 0.0)),
      float(get('roughnessFactor', 1.0)),
    )
    self._base = self._map(get('baseColorTexture', None), srgb=True)
    self._surface = self._map(get('metallicRoughnessTexture', None), srgb=False)
    self._glow = self._map(get('emissiveTexture', None), srgb=True)
    self._emission = tuple(map(float, get('emissiveFactor', (0, 0, 0))))
    uv = getattr(mesh.visual, 'uv', None)
    uv = np.zeros((len(points), 2)) if uv is None or len(uv) != len(points) else uv
    tint = self._tint(mesh, len(points))
    self._centres = points[mesh.faces].mean(axis=1)
    self.extent = float(np.ptp(points, axis=0).max())
    data = np.concatenate([points, normals, uv, tint], axis=1).astype('f4')
    self._buffer = raster._gl.buffer(data.tobytes())
    self._faces = mesh.faces.astype('i4')
    self._indices = raster._gl.buffer(self._faces.tobytes())
    self._arrays = {}

  def draw(self, program, pose: np.ndarray | None = None) -> None:
    """Draws the mesh; if `pose` is given, its triangles are sorted from far to near."""
    if pose is not None:
      order = np.argsort(-np.linalg.norm(self._centres - pose[:3, 3], axis=-1))
      self._indices.write(self._faces[order].tobytes())
    if program not in self._arrays:
      names = [('3f', 'position'), ('3f', 'normal'), ('2f', 'uv'), ('4f', 'color')]
      layout = ' '.join(form if name in program else f'{int(form[0]) * 4}x' for form, name in names)
      self._arrays[program] = self._raster._gl.vertex_array(
        program, [(self._buffer, layout, *(name for _, name in names if name in program))], self._indices
      )
    for name, value in (
      ('factor', tuple(self.factor)),
      ('cutoff', self._cutoff),
      ('metallic', self._metallic),
      ('roughness', self._roughness),
      ('emission', self._emission),
      ('opaque', self._opaque or self._cutoff > 0),
    ):
      if name in program:
        program[name] = value
    for place, (name, texture) in enumerate(
      (('texture_', self._base), ('surface', self._surface), ('glow', self._glow))
    ):
      if name in program:
        program[name] = place
        texture.use(place)
    self._arrays[program].render()

  def distance(self, pose: np.ndarray) -> float:
    """Returns the distance between the centre of the mesh and a camera."""
    return float(np.linalg.norm(self._centres.mean(axis=0) - pose[:3, 3]))

  def release(self) -> None:
    """Frees the memory on the device."""
    white = self._raster._white
    for resource in (*self._arrays.values(), self._buffer, self._indices, self._base, self._surface, self._glow):
      if resource is not white:
        resource.release()

  def _map(self, image, *, srgb: bool):
    if image is None:
      return self._raster._white
    try:
      pixels = np.array(image.convert('RGBA'))
    except (OSError, SyntaxError, AttributeError, ValueError) as error:
      raise ValueError(f'a texture cannot be read ({error})') from error
    if 0 in pixels.shape:
      raise ValueError('a texture has no pixels')
    return self._raster._texture(pixels, srgb=srgb)

  @staticmethod
  def _tint(mesh, count) -> np.ndarray:
    """Returns vertex colours [K, 4], linear; white if the mesh has none."""
    colors = (
      getattr(mesh.visual, 'vertex_colors', None)
      if mesh.visual.kind == 'vertex'
      else (getattr(mesh.visual, 'vertex_attributes', {}) or {}).get('color')
    )
    if colors is None or len(colors) != count:
      return np.ones((count, 4))
    colors = np.asarray(colors)
    colors = colors / np.iinfo(colors.dtype).max if np.issubdtype(colors.dtype, np.integer) else colors.astype(float)
    return np.pad(colors, ((0, 0), (0, 4 - colors.shape[1])), constant_values=1.0)
