"""Materials, textures and samplers of a glTF 2.0 file as `surfaces.Material` and `surfaces.Texture`."""

import functools
from pathlib import Path

import numpy as np

from . import gltf_file, surfaces
from .surfaces import Material, Texture

# Extensions whose image replaces that of the texture, in the order of preference. Pillow reads all of them.
_IMAGES = ('EXT_texture_webp', 'EXT_texture_avif', 'MSFT_texture_dds')
_GLOSSY = 'KHR_materials_pbrSpecularGlossiness'


class Materials:
  """The materials of a file, by index; each is read once, and each image is decoded once."""

  def __init__(self, file: gltf_file.GltfFile):
    self._file = file
    self.image = functools.cache(self._image)
    self.material = functools.cache(self._material)

  def check_images(self) -> None:
    """Raises ValueError if a texture has an image that cannot be decoded, even if no mesh uses it."""
    for number in range(len(self._file.items('textures'))):
      self.image(self._source(number))

  def _material(self, index: int | None) -> Material:
    """Returns a material; None is the default material of the specification."""
    if index is None:
      return Material(double_sided=False)
    entry = self._file.items('materials')[index]
    extensions = entry.get('extensions', {})
    common = dict(
      mode=entry.get('alphaMode', 'OPAQUE'),
      cutoff=float(entry.get('alphaCutoff', 0.5)),
      double_sided=bool(entry.get('doubleSided', False)),
      unlit='KHR_materials_unlit' in extensions,
      specular=self._specular(extensions),
      emission=tuple(
        np.array(entry.get('emissiveFactor', (0, 0, 0)), float)
        * extensions.get('KHR_materials_emissive_strength', {}).get('emissiveStrength', 1.0)
      ),
      emission_texture=self._texture(entry.get('emissiveTexture')),
    )
    if _GLOSSY in extensions:
      glossy = extensions[_GLOSSY]
      return Material(
        base_color=tuple(glossy.get('diffuseFactor', (1, 1, 1, 1))),
        base_texture=self._texture(glossy.get('diffuseTexture')),
        glossy_color=tuple(glossy.get('specularFactor', (1, 1, 1))),
        metallic=0.0,
        roughness=float(glossy.get('glossinessFactor', 1.0)),
        surface_texture=self._texture(glossy.get('specularGlossinessTexture')),
        **common,
      )
    rough = entry.get('pbrMetallicRoughness', {})
    return Material(
      base_color=tuple(rough.get('baseColorFactor', (1, 1, 1, 1))),
      base_texture=self._texture(rough.get('baseColorTexture')),
      metallic=float(rough.get('metallicFactor', 1.0)),
      roughness=float(rough.get('roughnessFactor', 1.0)),
      surface_texture=self._texture(rough.get('metallicRoughnessTexture')),
      **common,
    )

  @staticmethod
  def _specular(extensions: dict) -> tuple[float, ...]:
    """Returns the reflectance relative to that of a dielectric with an index of refraction of 1.5."""
    ior = extensions.get('KHR_materials_ior', {}).get('ior', 1.5)
    specular = extensions.get('KHR_materials_specular', {})
    scale = ((ior - 1) / (ior + 1)) ** 2 / 0.04 * specular.get('specularFactor', 1.0)
    return tuple(float(scale * value) for value in specular.get('specularColorFactor', (1, 1, 1)))

  def _texture(self, info: dict | None) -> Texture | None:
    """Returns the texture of a `textureInfo`."""
    if info is None:
      return None
    texture = self._file.items('textures')[info['index']]
    sampler = self._file.items('samplers')[texture['sampler']] if 'sampler' in texture else {}
    for name in ('wrapS', 'wrapT', 'minFilter', 'magFilter'):
      if sampler.get(name, surfaces.REPEAT) not in surfaces.SAMPLER_VALUES:
        raise ValueError(f'a sampler of the file has {name} {sampler[name]}, which glTF does not define')
    transform = info.get('extensions', {}).get('KHR_texture_transform', {})
    image = self._source(info['index'])
    return Texture(
      image=image,
      pixels=functools.partial(self.image, image),
      wrap=(sampler.get('wrapS', surfaces.REPEAT), sampler.get('wrapT', surfaces.REPEAT)),
      filters=(sampler.get('minFilter', surfaces.LINEAR_MIPMAP_LINEAR), sampler.get('magFilter', surfaces.LINEAR)),
      uv_set=transform.get('texCoord', info.get('texCoord', 0)),
      transform=_matrix(transform),
    )

  def _source(self, number: int) -> int:
    """Returns the index of the image of a texture."""
    texture = self._file.items('textures')[number]
    extensions = texture.get('extensions', {})
    for name in _IMAGES:
      if 'source' in extensions.get(name, {}):
        return extensions[name]['source']
    if 'source' in texture:
      return texture['source']
    if extensions:
      raise gltf_file.refusal(next(iter(extensions)))
    raise ValueError(f'texture {number} has no image')

  def _image(self, index: int) -> np.ndarray:
    """Returns the RGBA bytes of an image; ValueError with its name if it cannot be read."""
    image = self._file.items('images')[index]
    name = image.get('name') or (image['uri'] if not image.get('uri', 'data:').startswith('data:') else index)
    source: Path | bytes
    if 'bufferView' in image:
      source = bytes(self._file.view(image['bufferView']))
    else:
      source = self._file.resource(image['uri'])
    start = source[:12] if isinstance(source, bytes) else source.read_bytes()[:12]
    if start == b'\xabKTX 20\xbb\r\n\x1a\n':
      raise gltf_file.refusal('KHR_texture_basisu')
    return surfaces.decode_image(str(name), source)


def _matrix(transform: dict) -> tuple[tuple[float, float, float], ...]:
  """Returns the matrix [2, 3] of KHR_texture_transform: scale, then rotation, then offset.

  In glTF v points down, so a counter-clockwise rotation by a maps (u, v) to (u cos a + v sin a, -u sin a + v cos a).
  """
  (x, y), (sx, sy) = transform.get('offset', (0, 0)), transform.get('scale', (1, 1))
  cos, sin = np.cos(transform.get('rotation', 0.0)), np.sin(transform.get('rotation', 0.0))
  return (float(cos * sx), float(sin * sy), float(x)), (float(-sin * sx), float(cos * sy), float(y))
