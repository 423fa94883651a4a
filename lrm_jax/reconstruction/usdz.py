"""Writes meshes as USDZ, for Apple's viewers and other programs that read USD, with the library usd-core.

y up, in metres, the front towards +z, as in GLB. The material emits its colour and reflects nothing, as the unlit
material of GLB files: the light is in the colours already. They are a texture, or vertex colours (displayColor, which
USD defines as linear light). Apple's AR Quick Look is said to show textures only.
"""

from collections.abc import Sequence
from pathlib import Path
import tempfile

import numpy as np
import trimesh

from lrm_jax import extras
from lrm_jax.errors import FailureError
from lrm_jax.geometry.cameras import INPUT_POSITION
from lrm_jax.reconstruction import glb


def check() -> None:
  """Raises ImportError (extras.py) if usd-core is not installed."""
  extras.require('usdz', 'pxr', purpose='--formats=usdz')


def write(mesh: trimesh.Trimesh, path: str | Path, input_position: Sequence[float] = INPUT_POSITION) -> None:
  """Writes a mesh with vertex colours or a texture.

  The side that faces `input_position`, the position of the input camera, becomes the front. Raises ImportError if
  usd-core is not installed.
  """
  check()
  from pxr import Sdf, UsdUtils

  with tempfile.TemporaryDirectory(prefix='lrm_jax_') as folder:
    layer = Path(folder) / 'object.usdc'
    stage = _stage(mesh, layer, glb.y_up(input_position))
    stage.GetRootLayer().Save()
    if not UsdUtils.CreateNewUsdzPackage(Sdf.AssetPath(str(layer)), str(path)):
      raise FailureError(f'usd-core could not write {path}')


def _stage(mesh: trimesh.Trimesh, layer: Path, rotation: np.ndarray):
  """Returns the stage of a new layer; its texture is written beside it."""
  from pxr import Gf, Kind, Sdf, Usd, UsdGeom, UsdShade, Vt

  stage = Usd.Stage.CreateNew(str(layer))
  UsdGeom.SetStageUpAxis(stage, UsdGeom.Tokens.y)
  UsdGeom.SetStageMetersPerUnit(stage, 1.0)
  root = UsdGeom.Xform.Define(stage, '/object')
  stage.SetDefaultPrim(root.GetPrim())
  Usd.ModelAPI(root).SetKind(Kind.Tokens.component)

  points = np.ascontiguousarray(mesh.vertices @ rotation.T, np.float32)
  normals = np.ascontiguousarray(mesh.vertex_normals @ rotation.T, np.float32)
  shape = UsdGeom.Mesh.Define(stage, '/object/mesh')
  shape.CreateSubdivisionSchemeAttr(UsdGeom.Tokens.none)
  shape.CreatePointsAttr(Vt.Vec3fArray.FromNumpy(points))
  shape.CreateNormalsAttr(Vt.Vec3fArray.FromNumpy(normals))
  shape.SetNormalsInterpolation(UsdGeom.Tokens.vertex)
  shape.CreateFaceVertexCountsAttr(Vt.IntArray.FromNumpy(np.full(len(mesh.faces), 3, np.int32)))
  shape.CreateFaceVertexIndicesAttr(Vt.IntArray.FromNumpy(np.ascontiguousarray(mesh.faces, np.int32).reshape(-1)))
  shape.CreateExtentAttr(Vt.Vec3fArray.FromNumpy(np.stack([points.min(0), points.max(0)])))
  primvars = UsdGeom.PrimvarsAPI(shape)

  material = UsdShade.Material.Define(stage, '/object/material')
  surface = _shader(stage, '/object/material/surface', 'UsdPreviewSurface')
  for name, value in (('roughness', 1.0), ('metallic', 0.0)):
    surface.CreateInput(name, Sdf.ValueTypeNames.Float).Set(value)
  surface.CreateInput('useSpecularWorkflow', Sdf.ValueTypeNames.Int).Set(1)
  surface.CreateInput('specularColor', Sdf.ValueTypeNames.Color3f).Set(Gf.Vec3f(0, 0, 0))
  if mesh.visual.kind == 'texture':  # type: ignore[union-attr]
    uv = np.ascontiguousarray(mesh.visual.uv, np.float32)  # type: ignore[union-attr]
    primvars.CreatePrimvar('st', Sdf.ValueTypeNames.TexCoord2fArray, UsdGeom.Tokens.vertex).Set(
      Vt.Vec2fArray.FromNumpy(uv)
    )
    mesh.visual.material.image.save(layer.with_name('texture.png'))  # type: ignore[union-attr]
    places = _shader(stage, '/object/material/places', 'UsdPrimvarReader_float2')
    places.CreateInput('varname', Sdf.ValueTypeNames.String).Set('st')
    colors = _shader(stage, '/object/material/texture', 'UsdUVTexture')
    colors.CreateInput('file', Sdf.ValueTypeNames.Asset).Set(Sdf.AssetPath('texture.png'))
    colors.CreateInput('sourceColorSpace', Sdf.ValueTypeNames.Token).Set('sRGB')
    for name in ('wrapS', 'wrapT'):
      colors.CreateInput(name, Sdf.ValueTypeNames.Token).Set('clamp')
    colors.CreateInput('st', Sdf.ValueTypeNames.Float2).ConnectToSource(
      places.CreateOutput('result', Sdf.ValueTypeNames.Float2)
    )
    result = colors.CreateOutput('rgb', Sdf.ValueTypeNames.Float3)
  else:
    linear = glb.to_linear(mesh.visual.vertex_colors[:, :3] / 255.0).astype(np.float32)  # type: ignore[union-attr]
    primvars.CreatePrimvar('displayColor', Sdf.ValueTypeNames.Color3fArray, UsdGeom.Tokens.vertex).Set(
      Vt.Vec3fArray.FromNumpy(np.ascontiguousarray(linear))
    )
    colors = _shader(stage, '/object/material/colors', 'UsdPrimvarReader_float3')
    colors.CreateInput('varname', Sdf.ValueTypeNames.String).Set('displayColor')
    result = colors.CreateOutput('result', Sdf.ValueTypeNames.Float3)
  surface.CreateInput('diffuseColor', Sdf.ValueTypeNames.Color3f).Set(Gf.Vec3f(0, 0, 0))
  surface.CreateInput('emissiveColor', Sdf.ValueTypeNames.Color3f).ConnectToSource(result)
  material.CreateSurfaceOutput().ConnectToSource(surface.CreateOutput('surface', Sdf.ValueTypeNames.Token))
  UsdShade.MaterialBindingAPI.Apply(shape.GetPrim()).Bind(material)
  return stage


def _shader(stage, path: str, kind: str):
  from pxr import UsdShade

  shader = UsdShade.Shader.Define(stage, path)
  shader.CreateIdAttr(kind)
  return shader
