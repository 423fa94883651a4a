"""Objects by (preset, seed, index): `make_object` returns the parts, `write_glb` writes them.

The same three values give the same object, byte by byte, with the same versions of NumPy, SciPy, Pillow, manifold3d,
scikit-image and trimesh, whatever else was made before it.
"""

import dataclasses
from pathlib import Path
import zlib

import numpy as np
from PIL import Image
from scipy import sparse
from scipy.spatial import ConvexHull
import trimesh
from trimesh.visual import TextureVisuals
from trimesh.visual.material import PBRMaterial

from . import abstract, buildings, figures, furniture, goods, nature, vehicles, vessels, zeroverse  # noqa: F401
from .grammar import MAKERS
from .materials import Look, Material
from .solids import Solid, corner_normals, problem

PRESETS = ('things', 'zeroverse')
MAX_FACES = 60_000
_ATTEMPTS = 30  # An object that is not exact, or falls over, is made anew from the next random numbers.
_Z_UP_TO_Y_UP = np.array([[1.0, 0, 0], [0, 0, 1.0], [0, -1.0, 0]])


@dataclasses.dataclass(frozen=True, eq=False)
class Object:
  """Parts of one object: (solid, materials by surface). `maker` names what made it."""

  maker: str
  parts: list[tuple[Solid, tuple[Material, ...]]]


def make_object(preset: str, seed: int, index: int, maker: str | None = None) -> Object:
  """Returns the object number `index` of a preset; with `maker`, the thing of that maker.

  Things stand at z = 0 and look along -y. Raises ValueError for an unknown preset or maker, and RuntimeError if no
  attempt is exact.
  """
  if preset not in PRESETS or (maker is not None and maker not in MAKERS):
    raise ValueError(f'{preset=} must be one of {", ".join(PRESETS)}, and {maker=} one of {", ".join(MAKERS)}')
  if preset == 'things' and maker is None:
    maker = maker_of(seed, index)
  first, reason = [seed, index, zlib.crc32(preset.encode())], None
  for attempt in range(_ATTEMPTS):
    rng = np.random.default_rng([*first, 1 + attempt])
    if preset == 'zeroverse':
      made = Object(*zeroverse.make_object(rng))
      reason = flaw(made)
    else:
      chosen = MAKERS[maker]
      made = Object(maker, [(solid, (material,)) for solid, material in chosen.make(rng, Look(rng, chosen.size))])
      made = _grounded(made)
      reason = flaw(made) or unsound(made)
    if reason is None:
      return made
  raise RuntimeError(f'{preset} {seed} {index}: {_ATTEMPTS} attempts of {maker} failed, the last one because {reason}')


def maker_of(seed: int, index: int) -> str:
  """Returns the maker of a thing, drawn by the weights of the makers."""
  weights = np.array([one.weight for one in MAKERS.values()])
  rng = np.random.default_rng([seed, index, zlib.crc32(b'maker')])
  return str(rng.choice(list(MAKERS), p=weights / weights.sum()))


def parse_uid(uid: str) -> tuple[str, int, int]:
  """Returns (preset, seed, index) of a uid; ValueError if it is not one."""
  preset, _, numbers = uid.partition('_')
  seed, _, index = numbers.partition('_')
  if preset not in PRESETS or not (seed.isdigit() and index.isdigit()):
    raise ValueError(f'{uid=} must be PRESET_SEED_INDEX')
  return preset, int(seed), int(index)


def flaw(made: Object) -> str | None:
  """Returns why an object is not exact (see solids.problem), or has too many faces; None if it is exact."""
  if not made.parts:
    return 'it has no parts'
  whole = joined(made)
  if len(whole.faces) > MAX_FACES:
    return f'it has {len(whole.faces)} faces'
  if any(solid.volume <= 0 for solid, _ in made.parts):
    return 'faces of a part are wound inwards'
  return problem(whole)


def unsound(made: Object) -> str | None:
  """Returns why a thing could not stand in the world: parts in the air, no balance, a needle; None if it could."""
  low, high = (np.stack([solid.bounds[i] for solid, _ in made.parts]) for i in (0, 1))
  extent = high.max(0) - low.min(0)
  if extent.min() < 0.02 * extent.max():
    return 'it is as thin as a needle'
  slack = 0.002 * extent.max()
  touch = np.all((low[:, None] <= high[None] + slack) & (low[None] <= high[:, None] + slack), axis=-1)
  count, group = sparse.csgraph.connected_components(sparse.csr_array(touch))
  if any(low[group == i, 2].min() > 0.02 * extent[2] for i in range(count)):
    return 'a part hangs in the air'
  vertices = np.concatenate([solid.vertices for solid, _ in made.parts])
  feet = vertices[vertices[:, 2] < 0.02 * extent[2] + slack][:, :2]
  hull = ConvexHull(
    np.concatenate([feet + slack * np.array(corner) for corner in ((1, 1), (1, -1), (-1, 1), (-1, -1))])
  )
  volumes = np.array([solid.volume for solid, _ in made.parts])
  middles = np.stack([solid.vertices.mean(0) for solid, _ in made.parts])[:, :2]
  middle = (volumes[:, None] * middles).sum(0) / volumes.sum()
  if (hull.equations @ [*middle, 1]).max() > 0.12 * extent.max():  # Thin feet, such as a stem's, may be anchored.
    return 'it falls over'
  return None


def _grounded(made: Object) -> Object:
  low = min(solid.bounds[0, 2] for solid, _ in made.parts)
  return Object(made.maker, [(solid.moved(z=-low), materials) for solid, materials in made.parts])


def joined(made: Object) -> Solid:
  """Returns all parts as one solid, whose surfaces are numbered through all parts; u has no period."""
  vertices, faces, uv, surface, count, sides = [], [], [], [], 0, 0
  for solid, materials in made.parts:
    vertices.append(solid.vertices)
    faces.append(solid.faces + count)
    uv.append(solid.uv)
    surface.append(solid.surface + sides if len(materials) > 1 else np.full(len(solid.faces), sides))
    count += len(solid.vertices)
    sides += len(materials)
  return Solid(*map(np.concatenate, (vertices, faces, uv, surface)))


def to_scene(made: Object) -> trimesh.Scene:
  """Returns the object as a scene with y up, one mesh per material; vertices are shared where shading is smooth."""
  whole = joined(made)
  materials = [material for _, some in made.parts for material in some]
  unique = list({id(material): material for material in materials}.values())
  number = {id(material): i for i, material in enumerate(unique)}
  group = np.array([number[id(material)] for material in materials])[whole.surface]
  coordinates = np.concatenate([texture_coordinates(solid, some) for solid, some in made.parts])
  normals = corner_normals(whole.vertices, whole.faces) @ _Z_UP_TO_Y_UP.T
  points = (whole.vertices @ _Z_UP_TO_Y_UP.T)[whole.faces]
  rows = np.concatenate([points, normals, coordinates], axis=-1).astype(np.float32) + 0.0
  scene = trimesh.Scene()
  for i, material in enumerate(unique):
    mine = np.ascontiguousarray(rows[group == i].reshape(-1, 8))
    if not len(mine):
      continue
    _, first, inverse = np.unique(mine.view(np.dtype((np.void, 32))).ravel(), return_index=True, return_inverse=True)
    corner = mine[first]
    mesh = trimesh.Trimesh(
      corner[:, :3], inverse.reshape(-1, 3), vertex_normals=corner[:, 3:6], process=False, validate=False
    )
    mesh.visual = TextureVisuals(uv=corner[:, 6:], material=_pbr(material, f'material_{i}'))
    scene.add_geometry(mesh, geom_name=f'part_{i}', node_name=f'part_{i}')
  return scene


def texture_coordinates(solid: Solid, materials: tuple[Material, ...]) -> np.ndarray:
  """Returns the coordinates [T, 3, 2] in the textures of the materials."""
  result = np.empty_like(solid.uv)
  for side, material in enumerate(materials):
    mine = solid.surface == side if len(materials) > 1 else slice(None)
    result[mine] = material.coordinates(solid.uv[mine], solid.period)
  return result


def write_glb(made: Object, path: Path) -> None:
  """Writes an object as a binary glTF file: y up, front along +z, in metres."""
  path.write_bytes(to_scene(made).export(file_type='glb', include_normals=True))


def _pbr(material: Material, name: str) -> PBRMaterial:
  look = dict(name=name, metallicFactor=float(material.metallic), roughnessFactor=float(material.roughness))
  if material.texture is not None:
    image = Image.fromarray(material.texture)
    image.__class__ = _QuickImage
    return PBRMaterial(baseColorTexture=image, **look)
  color = np.clip(material.color, 0, 1)
  linear = np.where(color <= 0.04045, color / 12.92, ((color + 0.055) / 1.055) ** 2.4)
  return PBRMaterial(baseColorFactor=[*linear.tolist(), 1.0], **look)


class _QuickImage(Image.Image):
  """An image that is saved with little compression: as PNG, textures would take longer to write than all the rest."""

  def save(self, fp, format=None, **params):
    super().save(fp, format, **({'compress_level': 1} | params if format == 'PNG' else params))
