"""Writes meshes as GLB, OBJ, PLY, STL or USDZ, with vertex colours or a texture as far as the format has them.

GLB, OBJ and USDZ files are y up, with the front towards +z; PLY and STL files are z up, with the front towards -y.
These are the axes that programs assume for the formats: in Blender, each file stands upright and faces the front view.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import trimesh
from trimesh.exchange import obj as trimesh_obj
from trimesh.exchange import ply as trimesh_ply
from trimesh.exchange import stl as trimesh_stl

from lrm_jax.errors import InputError
from lrm_jax.geometry.cameras import INPUT_POSITION
from lrm_jax.reconstruction import glb, usdz

FORMATS = ('glb', 'obj', 'ply', 'stl', 'usdz')


def parse_formats(text: str) -> list[str]:
  """Returns the formats named in a list with commas, without repetition.

  Raises InputError if one is unknown, and ImportError (extras.py) if the library of one is not installed.
  """
  names = list(dict.fromkeys(name.strip().lower().removeprefix('.') for name in text.split(',')))
  if unknown := [name for name in names if name not in FORMATS]:
    raise InputError(f'--formats={text}: {unknown[0] or "an empty name"} is unknown, use {", ".join(FORMATS)}')
  if 'usdz' in names:
    usdz.check()
  return names


def write(mesh: trimesh.Trimesh, path: str | Path, input_position: Sequence[float] = INPUT_POSITION) -> list[Path]:
  """Writes a mesh in the format of the path's suffix; returns the files: beside an OBJ, its material and texture.

  The side that faces `input_position`, the position of the input camera, becomes the front. PLY files have vertex
  colours in place of a texture, and STL files have no colours. Raises InputError if the suffix is unknown.
  """
  path = Path(path)
  kind = path.suffix.lower().removeprefix('.')
  if kind not in FORMATS:
    raise InputError(f'{path}: the suffix must be one of .{", .".join(FORMATS)}')
  if kind == 'glb':
    glb.write(mesh, path, input_position)
    return [path]
  if kind == 'usdz':
    usdz.write(mesh, path, input_position)
    return [path]
  if kind == 'obj':
    return _write_obj(turned(mesh, glb.y_up(input_position)), path)
  mesh = turned(mesh, glb.to_front(input_position))
  if mesh.visual.kind == 'texture':  # type: ignore[union-attr]
    mesh = _with_vertex_colors(mesh)
  if kind == 'ply':
    path.write_bytes(trimesh_ply.export_ply(mesh, vertex_normal=True, include_attributes=False))
  else:
    path.write_bytes(trimesh_stl.export_stl(mesh))
  return [path]


def turned(mesh: trimesh.Trimesh, rotation: np.ndarray) -> trimesh.Trimesh:
  """Returns the mesh rotated, with its own vertex normals."""
  return trimesh.Trimesh(
    mesh.vertices @ rotation.T,
    mesh.faces,
    vertex_normals=mesh.vertex_normals @ rotation.T,
    visual=mesh.visual.copy(),  # type: ignore[union-attr]
    process=False,
  )


def _write_obj(mesh: trimesh.Trimesh, path: Path) -> list[Path]:
  textured = mesh.visual.kind == 'texture'  # type: ignore[union-attr]
  if not textured:
    path.write_text(trimesh_obj.export_obj(mesh, include_normals=True, digits=6, header='lrm_jax'))
    return [path]
  material, image = path.with_suffix('.mtl'), path.with_name(f'{path.stem}_texture.png')
  lines = [f'# lrm_jax\nmtllib {material.name}\nusemtl texture']
  for name, values in (('v', mesh.vertices), ('vt', mesh.visual.uv), ('vn', mesh.vertex_normals)):  # type: ignore[union-attr]
    form = name + ' %.6f' * values.shape[1]
    lines += [form % tuple(row) for row in values.tolist()]
  lines += ['f {0}/{0}/{0} {1}/{1}/{1} {2}/{2}/{2}'.format(*face) for face in (mesh.faces + 1).tolist()]
  path.write_text('\n'.join(lines) + '\n')
  # The texture is the colour of the surface: a matt material (illum 1) without highlights.
  material.write_text(f'# lrm_jax\nnewmtl texture\nKa 0 0 0\nKd 1 1 1\nKs 0 0 0\nillum 1\nmap_Kd {image.name}\n')
  mesh.visual.material.image.save(image)  # type: ignore[union-attr]
  return [path, material, image]


def _with_vertex_colors(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
  """Returns a textured mesh with the colours of its texture at the vertices, joined at the edges of charts."""
  pixels = np.asarray(mesh.visual.material.image.convert('RGBA'))  # type: ignore[union-attr]
  height, width = pixels.shape[:2]
  column, row = (mesh.visual.uv * [width, -height] + [0, height]).T  # type: ignore[union-attr]
  color = pixels[np.clip(row.astype(int), 0, height - 1), np.clip(column.astype(int), 0, width - 1)]
  vertices, first, place = np.unique(mesh.vertices, axis=0, return_index=True, return_inverse=True)
  return trimesh.Trimesh(
    vertices,
    place.reshape(-1)[mesh.faces],
    vertex_normals=mesh.vertex_normals[first],
    vertex_colors=color[first],
    process=False,
  )
