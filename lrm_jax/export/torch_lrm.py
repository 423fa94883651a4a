"""Large reconstruction models (LRM, OpenLRM, TripoSR) in plain PyTorch: one image -> a triplane NeRF -> new views.

This file runs models that were exported with `python -m lrm_jax.export --format=torch`. It needs only PyTorch and the
two files beside it, torch_lrm.json (the configuration) and torch_lrm.safetensors (the weights).

  import torch_lrm

  model = torch_lrm.load('DIR')                  # An nn.Module in eval mode, float32; e.g. model.to('cuda').
  planes = model.encode(image)                   # [B, H, W, 3] in 0..1 -> [B, 3, P, P, C]; N views: [B, N, H, W, 3]
  pixels = model.render(planes, camera_to_world, intrinsics, size=128)  # .color, .depth, .opacity for [B, V] cameras
  density, color = model.query(planes, points)   # Points [B, Q, 3] in world coordinates.

Conventions, which are those of lrm_jax:
- Images are channels-last, in 0..1, of size `model.image_size`, with the object composited over the grey value
  `model.input_background`.
- World: right-handed, z up. The object is inside the cube [-half_size, half_size]^3.
- Cameras: `camera_to_world` [4, 4] with OpenGL axes (x right, y up, looking along -z); `intrinsics` (fx, fy, cx, cy)
  divided by the image size, with v pointing down.
- If no camera is given, `encode` assumes the camera of training: at `model.input_position`, looking at the origin, with
  a field of view of `model.fov` degrees.

All operations are differentiable, so models can be fine-tuned. Use `render(..., jitter=True)` for random sampling along
rays in training.

Written from the equations of LRM (arXiv 2311.04400), OpenLRM, TripoSR, NeRF, DINO and DINOv2.
Legend: B images, V views, N tokens, M image tokens, D width, P texels along a side of a plane, C channels, Q points,
R rays, S samples per ray.
"""

import json
import math
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
import torch.nn.functional as F  # noqa: N812 - PyTorch's usual name.

CONFIG, TENSORS = 'torch_lrm.json', 'torch_lrm.safetensors'
_TYPES = {'F32': torch.float32, 'F16': torch.float16, 'BF16': torch.bfloat16}
_EMPTY = (
  -torch.finfo(torch.float32).max / 8
)  # Raw density of empty space: its activation is 0, also after averaging with a neighbouring sample.


class Pixels(NamedTuple):
  """Colour [..., 3] in 0..1, depth [...] in world units (sum of weights * distances), opacity [...] in 0..1."""

  color: torch.Tensor
  depth: torch.Tensor
  opacity: torch.Tensor


def load(directory) -> 'TriplaneModel':
  """Returns the model exported to a directory with `python -m lrm_jax.export --format=torch`, in eval mode and float32.

  Raises OSError if a file is missing, and RuntimeError (from `load_state_dict`) if the weights do not match the
  configuration.
  """
  directory = Path(directory)
  config = json.loads((directory / CONFIG).read_text())
  sizes = dict(config['model'])
  architectures = {'lrm': LRM, 'openlrm': OpenLRM, 'triposr': TripoSR}
  with torch.device('meta'):  # Skips allocation and random initialisation: the weights are loaded next.
    model = architectures[sizes.pop('architecture', 'lrm')](**sizes)
  model.load_state_dict(_read(directory / TENSORS), assign=True)
  model.fov, model.input_background = config['data']['fov'], config['data'].get('input_background', 1.0)
  return model.eval()


def _read(path: Path) -> dict[str, torch.Tensor]:
  """Returns {name: float32 tensor} of a safetensors file, whose layout is: header length, JSON header, tensor data."""
  with open(path, 'rb') as file:
    length = int.from_bytes(file.read(8), 'little')
    header = json.loads(file.read(length))
    header.pop('__metadata__', None)
    tensors = {}
    for name, entry in header.items():
      start, end = entry['data_offsets']
      file.seek(8 + length + start)
      data = torch.frombuffer(bytearray(file.read(end - start)), dtype=_TYPES[entry['dtype']])
      tensors[name] = data.reshape(entry['shape']).float()
  return tensors


class SelfAttention(nn.Module):
  """Multi-head self-attention; [B, N, D] -> [B, N, D]."""

  def __init__(self, width, num_heads, *, bias, out_bias=None):
    super().__init__()
    self.num_heads = num_heads
    self.qkv = nn.Linear(width, 3 * width, bias)
    self.out = nn.Linear(width, width, bias if out_bias is None else out_bias)

  def forward(self, x):
    return self.out(_attend(*self.qkv(x).chunk(3, dim=-1), self.num_heads))


class CrossAttention(nn.Module):
  """Multi-head attention from tokens [B, N, D] to a context [B, M, context_width]."""

  def __init__(self, width, context_width, num_heads, *, bias, out_bias=None):
    super().__init__()
    self.num_heads = num_heads
    self.q = nn.Linear(width, width, bias)
    self.kv = nn.Linear(context_width, 2 * width, bias)
    self.out = nn.Linear(width, width, bias if out_bias is None else out_bias)

  def forward(self, x, context):
    return self.out(_attend(self.q(x), *self.kv(context).chunk(2, dim=-1), self.num_heads))


def _attend(q, k, v, num_heads):
  """Scaled dot-product attention of q [B, N, D] to k and v [B, M, D], split into heads."""
  q, k, v = (x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (q, k, v))
  return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class MLP(nn.Module):
  """contract(activation(expand(x)))."""

  def __init__(self, width, hidden, out, activation):
    super().__init__()
    self.activation = activation
    self.expand = nn.Linear(width, hidden)
    self.contract = nn.Linear(hidden, out)

  def forward(self, x):
    return self.contract(self.activation(self.expand(x)))


class GEGLU(nn.Module):
  """contract(value * GELU(gate)) with (value, gate) = expand(x); source: Shazeer 2020."""

  def __init__(self, width, hidden):
    super().__init__()
    self.expand = nn.Linear(width, 2 * hidden)
    self.contract = nn.Linear(hidden, width)

  def forward(self, x):
    value, gate = self.expand(x).chunk(2, dim=-1)
    return self.contract(value * F.gelu(gate))


class ModulatedLayerNorm(nn.Module):
  """LN(x) * (1 + scale) + shift, with (shift, scale) predicted from the camera embedding."""

  def __init__(self, width, camera_width):
    super().__init__()
    self.norm = nn.LayerNorm(width, eps=1e-6)
    self.modulation = nn.Linear(camera_width, 2 * width)

  def forward(self, x, camera):
    shift, scale = self.modulation(F.silu(camera))[:, None].chunk(2, dim=-1)
    return self.norm(x) * (1 + scale) + shift


class EncoderBlock(nn.Module):
  """Pre-norm transformer block; DINOv2 scales each residual branch by a learned vector (LayerScale)."""

  def __init__(self, width, num_heads, *, epsilon, scaled):
    super().__init__()
    self.norm1 = nn.LayerNorm(width, eps=epsilon)
    self.attention = SelfAttention(width, num_heads, bias=True)
    self.norm2 = nn.LayerNorm(width, eps=epsilon)
    self.mlp = MLP(width, 4 * width, width, F.gelu)
    self.scale1 = nn.Parameter(torch.ones(width)) if scaled else 1.0
    self.scale2 = nn.Parameter(torch.ones(width)) if scaled else 1.0

  def forward(self, x):
    x = x + self.scale1 * self.attention(self.norm1(x))
    return x + self.scale2 * self.mlp(self.norm2(x))


class Encoder(nn.Module):
  """Vision transformer of DINO or DINOv2; an image -> the class token, then one token per patch in row-major order.

  The position embedding of `table_size` x `table_size` patches is resized to n x n by bicubic interpolation. With an
  `interpolate_offset`, the scale factor is (n + interpolate_offset) / table_size, as in DINO. DINOv2 with registers
  uses antialiasing instead.
  """

  def __init__(
    self,
    kind,
    *,
    patch_size,
    width,
    depth,
    num_heads,
    table_size,
    num_registers=0,
    interpolate_offset=0.0,
    epsilon=1e-6,
  ):
    super().__init__()
    self.kind, self.patch_size, self.table_size, self.num_registers = kind, patch_size, table_size, num_registers
    self.interpolate_offset = interpolate_offset
    self.patch_embedding = nn.Linear(3 * patch_size**2, width)
    self.class_token = nn.Parameter(torch.empty(1, 1, width))
    self.position_embedding = nn.Parameter(torch.empty(1, 1 + table_size**2, width))
    if num_registers:
      self.registers = nn.Parameter(torch.empty(1, num_registers, width))
    self.blocks = nn.ModuleList(
      EncoderBlock(width, num_heads, epsilon=epsilon, scaled=kind == 'dinov2') for _ in range(depth)
    )
    self.norm = nn.LayerNorm(width, eps=epsilon)

  def forward(self, image):
    """Returns the tokens [B, 1 + patches, D] of images [B, H, W, 3] in 0..1."""
    if self.kind == 'dino':  # OpenLRM's DINOv2 was trained without ImageNet normalisation.
      mean, std = (image.new_tensor(x) for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
      image = (image - mean) / std
    p = self.patch_size
    patches = image.unflatten(2, (-1, p)).unflatten(1, (-1, p))  # [B, rows, p, columns, p, 3]
    patches = patches.transpose(2, 3).flatten(3).flatten(1, 2)
    x = torch.cat([self.class_token.expand(len(image), -1, -1), self.patch_embedding(patches)], dim=1)
    x = x + self.positions(image.shape[1] // p)
    if self.num_registers:
      x = torch.cat([x[:, :1], self.registers.expand(len(x), -1, -1), x[:, 1:]], dim=1)
    for block in self.blocks:
      x = block(x)
    x = self.norm(x)
    return torch.cat([x[:, :1], x[:, 1 + self.num_registers :]], dim=1)

  def positions(self, size):
    """Returns the position embedding [1, 1 + size^2, D], resized from `table_size` if necessary."""
    table = self.position_embedding
    if size == self.table_size:
      return table
    grid = table[:, 1:].unflatten(1, (self.table_size, self.table_size)).permute(0, 3, 1, 2)
    if self.interpolate_offset:
      scale = (size + self.interpolate_offset) / self.table_size
      grid = F.interpolate(grid, scale_factor=(scale, scale), mode='bicubic')
    else:
      grid = F.interpolate(grid, size=(size, size), mode='bicubic', antialias=bool(self.num_registers))
    return torch.cat([table[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)


class DecoderBlock(nn.Module):
  """Cross-attention, self-attention and MLP, each with a camera-modulated pre-norm and a residual connection."""

  def __init__(self, width, context_width, camera_width, num_heads):
    super().__init__()
    self.norm1 = ModulatedLayerNorm(width, camera_width)
    self.cross_attention = CrossAttention(width, context_width, num_heads, bias=False)
    self.norm2 = ModulatedLayerNorm(width, camera_width)
    self.self_attention = SelfAttention(width, num_heads, bias=False)
    self.norm3 = ModulatedLayerNorm(width, camera_width)
    self.mlp = MLP(width, 4 * width, width, F.gelu)

  def forward(self, x, context, camera):
    x = x + self.cross_attention(self.norm1(x, camera), context)
    x = x + self.self_attention(self.norm2(x, camera))
    return x + self.mlp(self.norm3(x, camera))


class Decoder(nn.Module):
  """LRM's decoder: image tokens [B, M, D] and cameras -> planes [B, 3, P, P, C].

  Learned triplane tokens attend to the image tokens and to each other. The camera feature uses the first `pose_rows`
  rows of the pose and the intrinsics.
  """

  def __init__(
    self, *, context_width, camera_width, width, depth, num_heads, resolution, upsample, channels, pose_rows
  ):
    super().__init__()
    self.resolution, self.upsample, self.pose_rows = resolution, upsample, pose_rows
    self.camera_embedding = MLP(4 * pose_rows + 4, camera_width, camera_width, F.silu)
    self.tokens = nn.Parameter(torch.empty(1, 3 * resolution**2, width))
    self.blocks = nn.ModuleList(DecoderBlock(width, context_width, camera_width, num_heads) for _ in range(depth))
    self.norm = nn.LayerNorm(width, eps=1e-6)
    self.upsampler = nn.Linear(width, upsample**2 * channels, bias=False)
    self.upsampler_bias = nn.Parameter(torch.empty(channels))

  def forward(self, context, camera_to_world, intrinsics):
    camera = self.camera_embedding(torch.cat([camera_to_world[:, : self.pose_rows].flatten(1), intrinsics], dim=-1))
    x = self.tokens.expand(len(context), -1, -1)
    for block in self.blocks:
      x = block(x, context, camera)
    return _to_planes(self.upsampler(self.norm(x)), self.resolution, self.upsample) + self.upsampler_bias


class ViewTags(nn.Module):
  """Tokens [B, N, M, D] of N input views -> [B, N M, D], with a tag by how the camera differs from the first view's."""

  def __init__(self, width, camera_width, pose_rows):
    super().__init__()
    self.pose_rows = pose_rows
    self.embedding = MLP(4 * pose_rows + 4, camera_width, width, F.silu)

  def forward(self, tokens, camera_to_world, intrinsics):
    tags = self.embedding(torch.cat([camera_to_world[:, :, : self.pose_rows].flatten(2), intrinsics], dim=-1))
    return (tokens + (tags - tags[:, :1])[:, :, None]).flatten(1, 2)


class TripoSRBlock(nn.Module):
  """Self-attention, cross-attention and GEGLU, each with a pre-norm and a residual connection."""

  def __init__(self, width, context_width, num_heads):
    super().__init__()
    biases = dict(bias=False, out_bias=True)
    self.norm1 = nn.LayerNorm(width, eps=1e-5)
    self.self_attention = SelfAttention(width, num_heads, **biases)
    self.norm2 = nn.LayerNorm(width, eps=1e-5)
    self.cross_attention = CrossAttention(width, context_width, num_heads, **biases)
    self.norm3 = nn.LayerNorm(width, eps=1e-5)
    self.mlp = GEGLU(width, 4 * width)

  def forward(self, x, context):
    x = x + self.self_attention(self.norm1(x))
    x = x + self.cross_attention(self.norm2(x), context)
    return x + self.mlp(self.norm3(x))


class TripoSRDecoder(nn.Module):
  """TripoSR's decoder: image tokens [B, M, D] -> planes [B, 3, P, P, C], with a residual of the learned tokens."""

  def __init__(self, *, context_width, width, depth, num_heads, resolution, upsample, channels):
    super().__init__()
    self.resolution, self.upsample = resolution, upsample
    self.tokens = nn.Parameter(torch.empty(1, 3 * resolution**2, width))
    self.norm = nn.GroupNorm(32, width, eps=1e-6)
    self.first = nn.Linear(width, width)
    self.blocks = nn.ModuleList(TripoSRBlock(width, context_width, num_heads) for _ in range(depth))
    self.last = nn.Linear(width, width)
    self.upsampler = nn.Linear(width, upsample**2 * channels, bias=False)
    self.upsampler_bias = nn.Parameter(torch.empty(channels))

  def forward(self, context):
    x = self.first(self.norm(self.tokens.transpose(1, 2)).transpose(1, 2)).expand(len(context), -1, -1)
    for block in self.blocks:
      x = block(x, context)
    return _to_planes(self.upsampler(self.last(x) + self.tokens), self.resolution, self.upsample) + self.upsampler_bias


def _to_planes(x, resolution, upsample):
  """Returns planes [B, 3, R u, R u, C] from tokens [B, 3 R R, u u C], each of which holds u x u texels, row-major."""
  x = x.unflatten(2, (upsample, upsample, -1)).unflatten(1, (3, resolution, resolution))
  return x.transpose(3, 4).flatten(4, 5).flatten(2, 3)


class NeRFMLP(nn.Module):
  """Concatenated features of the three planes [..., 3 C] -> (raw density [...], colour [..., 3] in 0..1)."""

  def __init__(self, channels, width, depth, *, activation, color_padding=0.0):
    super().__init__()
    self.activation, self.color_padding = activation, color_padding
    self.first = nn.Linear(3 * channels, width)
    self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(depth - 2))
    self.last = nn.Linear(width, 4)

  def forward(self, features):
    x = self.activation(self.first(features))
    for layer in self.hidden:
      x = self.activation(layer(x))
    x = self.last(x)
    return x[..., 0], torch.sigmoid(x[..., 1:]) * (1 + 2 * self.color_padding) - self.color_padding


class TriplaneModel(nn.Module):
  """Base class of all models: encodes images into planes, renders views, and evaluates density and colour."""

  input_position = (0.0, -2.0, 0.0)
  half_size = 1.0
  fov = 50.0
  input_background = 1.0

  def forward(
    self, image, camera_to_world, intrinsics, target_camera_to_world, target_intrinsics, size, background=1.0
  ):
    """Encodes images and returns the `Pixels` of the target views; see `encode` and `render`."""
    planes = self.encode(image, camera_to_world, intrinsics)
    return self.render(planes, target_camera_to_world, target_intrinsics, size, background)

  def encode(self, image, camera_to_world=None, intrinsics=None):
    """Returns the planes [B, 3, P, P, C] of images [B, H, W, 3] in 0..1 with cameras [B, 4, 4] and [B, 4]."""
    raise NotImplementedError

  def render(self, planes, camera_to_world, intrinsics, size, background=1.0, *, jitter=False, rays_per_chunk=4096):
    """Returns the `Pixels` of views: colour [B, V, size, size, 3], depth and opacity [B, V, size, size].

    `camera_to_world` is [B, V, 4, 4], `intrinsics` [B, V, 4]; `background` is a grey value or a tensor [B, V, 3]. With
    `jitter`, sample positions are random. `rays_per_chunk` rays of each object are computed at once, which limits
    memory use when no gradients are computed.
    """
    origins, directions = _pixel_rays(camera_to_world, intrinsics, size)
    shape, table = origins.shape[:-1], _table(planes)
    chunks = zip(*(x.flatten(1, 3).split(rays_per_chunk, dim=1) for x in (origins, directions)))
    pixels = [self._trace(table, *chunk, jitter) for chunk in chunks]
    color, depth, opacity = (torch.cat(parts, dim=1).unflatten(1, shape[1:]) for parts in zip(*pixels))
    if isinstance(background, torch.Tensor) and background.ndim:
      background = background[:, :, None, None]
    return Pixels(color + (1 - opacity[..., None]) * background, depth, opacity)

  def query(self, planes, points):
    """Returns (non-negative density [B, Q], colour [B, Q, 3]) at points [B, Q, 3] in world coordinates."""
    raw, color = self._field(_table(planes), points)
    return self._density(raw), color

  def _field(self, table, points):
    """Returns (raw density [B, ...], colour [B, ..., 3]) at points [B, ..., 3]."""
    scaled = (points / self.half_size).flatten(1, -2)
    grid = torch.stack([scaled[..., list(axes)] for axes in self.plane_axes], dim=1)  # [B, 3, Q, 2]
    features = F.grid_sample(table.flatten(0, 1), grid.flatten(0, 1)[:, :, None], align_corners=False)[..., 0]
    features = features.unflatten(0, (-1, 3)).flatten(1, 2).transpose(1, 2)  # [B, Q, 3 C]
    return self.nerf(features.unflatten(1, points.shape[1:-1]))

  def _density(self, raw):
    """Returns the density activation of raw densities."""
    raise NotImplementedError

  def _trace(self, table, origins, directions, jitter):
    """Returns the `Pixels` of rays [B, R, 3] over a black background."""
    raise NotImplementedError

  def _input_camera(self, image, camera_to_world, intrinsics):
    """Returns the camera ([B, 4, 4], [B, 4]), with the camera of training in place of missing arguments."""
    if camera_to_world is None:
      position = torch.tensor(self.input_position, dtype=torch.float64)
      backward = position / position.norm()
      right = torch.linalg.cross(torch.tensor((0.0, 0.0, 1.0), dtype=torch.float64), backward)
      right = right / right.norm()
      pose = torch.eye(4, dtype=torch.float64)
      pose[:3] = torch.stack([right, torch.linalg.cross(backward, right), backward, position], dim=1)
      camera_to_world = pose.to(image).expand(len(image), 4, 4)
    if intrinsics is None:
      focal = 0.5 / math.tan(math.radians(self.fov) / 2)
      intrinsics = image.new_tensor((focal, focal, 0.5, 0.5)).expand(len(image), 4)
    return camera_to_world, intrinsics


class LRM(TriplaneModel):
  """LRM (Hong et al. 2023); the arguments are those of the section `model` of an lrm_jax configuration."""

  def __init__(
    self,
    *,
    image_size,
    patch_size,
    encoder_width,
    encoder_depth,
    encoder_num_heads,
    encoder_table_size,
    camera_width,
    decoder_width,
    decoder_depth,
    decoder_num_heads,
    triplane_resolution,
    triplane_upsample,
    triplane_channels,
    nerf_width,
    nerf_depth,
    num_samples,
    half_size=1.0,
    num_input_views=1,
    encoder='dino',
    encoder_registers=0,
    encoder_interpolate_offset=0.0,
    encoder_norm_epsilon=1e-6,
    pose_rows=4,
    plane_axes=('xy', 'xz', 'yz'),
    density_scale=1.0,
    color_padding=0.0,
    **unused,  # Values that matter only in training, such as remat, dtype and initialisation.
  ):
    super().__init__()
    self.image_size, self.num_samples, self.density_scale = image_size, num_samples, density_scale
    self.half_size = half_size
    self.plane_axes = tuple(('xyz'.index(name[0]), 'xyz'.index(name[1])) for name in plane_axes)
    if encoder == 'dinov2':
      special = dict(num_registers=encoder_registers, interpolate_offset=0.0 if encoder_registers else 0.1)
    else:
      special = dict(interpolate_offset=encoder_interpolate_offset, epsilon=encoder_norm_epsilon)
    self.encoder = Encoder(
      encoder,
      patch_size=patch_size,
      width=encoder_width,
      depth=encoder_depth,
      num_heads=encoder_num_heads,
      table_size=encoder_table_size,
      **special,
    )
    self.decoder = Decoder(
      context_width=encoder_width,
      camera_width=camera_width,
      width=decoder_width,
      depth=decoder_depth,
      num_heads=decoder_num_heads,
      resolution=triplane_resolution,
      upsample=triplane_upsample,
      channels=triplane_channels,
      pose_rows=pose_rows,
    )
    self.num_input_views = num_input_views
    if num_input_views > 1:
      self.view_tags = ViewTags(encoder_width, camera_width, pose_rows)
    self.nerf = NeRFMLP(triplane_channels, nerf_width, nerf_depth, activation=F.relu, color_padding=color_padding)

  def encode(self, image, camera_to_world=None, intrinsics=None):
    """Returns the planes [B, 3, P, P, C] of images [B, H, W, 3] in 0..1 with cameras [B, 4, 4] and [B, 4].

    For N views of each object: images [B, N, H, W, 3], cameras [B, N, 4, 4] and [B, N, 4] in the frame of the first.
    """
    if image.ndim == 4:
      return self.decoder(self.encoder(image), *self._input_camera(image, camera_to_world, intrinsics))
    views = image.shape[1]
    if views > self.num_input_views:
      raise ValueError(f'the model takes at most {self.num_input_views} input views of an object, not {views}')
    tokens = self.encoder(image.flatten(0, 1)).unflatten(0, (-1, views))
    tokens = self.view_tags(tokens, camera_to_world, intrinsics) if views > 1 else tokens[:, 0]
    return self.decoder(tokens, camera_to_world[:, 0], intrinsics[:, 0])

  def _density(self, raw):
    return self.density_scale * F.softplus(raw - 1)

  def _trace(self, table, origins, directions, jitter):
    near, far = _intersect_cube(origins, directions, self.half_size)
    distances, delta = _bins(near, far, self.num_samples, jitter)
    raw, color = self._field(table, origins[..., None, :] + distances[..., None] * directions[..., None, :])
    return _composite(self._density(raw), color, distances, delta)


class OpenLRM(LRM):
  """LRM with a camera feature of 16 values and two passes per ray: uniform samples, then importance sampling."""

  def __init__(self, **sizes):
    super().__init__(**sizes | dict(pose_rows=3, plane_axes=('xy', 'xz', 'zy'), color_padding=0.001))

  def _trace(self, table, origins, directions, jitter):
    half = self.num_samples // 2
    near, far = _intersect_cube(origins, directions, 1.0)
    index = torch.arange(half, dtype=near.dtype, device=near.device)
    coarse = near[..., None] + (far - near)[..., None] * (index / (half - 1))
    uniform = ((index + 0.5) / half).expand(coarse.shape)
    if jitter:
      coarse = coarse + torch.rand_like(coarse) * ((far - near) / (half - 1))[..., None]
      uniform = torch.rand_like(coarse)
    raw, color = self._field_in_cube(table, origins, directions, coarse)
    with torch.no_grad():
      midpoint_raw, delta = _midpoints(raw, -1), coarse.diff(dim=-1)
      fine = _sample_by_weights(coarse, _ray_weights(self._density(midpoint_raw), delta), uniform)
    both = (coarse, fine), *zip((raw, color), self._field_in_cube(table, origins, directions, fine))
    distances, raw, color = (torch.cat(parts, dim=2) for parts in both)
    distances, order = distances.sort(dim=2, stable=True)
    raw = raw.gather(2, order)
    color = color.gather(2, order[..., None].expand(color.shape))
    density = self._density(_midpoints(raw, -1))
    return _composite(density, _midpoints(color, -2), _midpoints(distances, -1), distances.diff(dim=-1))

  def _field_in_cube(self, table, origins, directions, distances):
    """Returns (raw density, colour) at distances along rays; points outside the closed cube are empty."""
    points = origins[..., None, :] + distances[..., None] * directions[..., None, :]
    raw, color = self._field(table, points)
    inside = (points.abs() <= 1).all(dim=-1)
    return torch.where(inside, raw, raw.new_tensor(_EMPTY)), torch.where(
      inside[..., None], color, color.new_tensor(0.0)
    )


class TripoSR(TriplaneModel):
  """TripoSR (2024): no camera input, a cube of half-size `radius`, and a fixed step of 1 / num_samples along rays."""

  input_position = (1.9, 0.0, 0.0)
  plane_axes = ((0, 1), (0, 2), (1, 2))

  def __init__(
    self,
    *,
    image_size,
    patch_size,
    encoder_width,
    encoder_depth,
    encoder_num_heads,
    encoder_table_size,
    decoder_width,
    decoder_depth,
    decoder_num_heads,
    triplane_resolution,
    triplane_upsample,
    triplane_channels,
    nerf_width,
    nerf_depth,
    num_samples,
    radius=0.87,
    **unused,
  ):
    super().__init__()
    self.image_size, self.num_samples, self.half_size = image_size, num_samples, radius
    self.encoder = Encoder(
      'dino',
      patch_size=patch_size,
      width=encoder_width,
      depth=encoder_depth,
      num_heads=encoder_num_heads,
      table_size=encoder_table_size,
      interpolate_offset=0.1,
      epsilon=1e-12,
    )
    self.pooler = nn.Linear(encoder_width, encoder_width)  # Unused, but part of TripoSR's checkpoints.
    self.decoder = TripoSRDecoder(
      context_width=encoder_width,
      width=decoder_width,
      depth=decoder_depth,
      num_heads=decoder_num_heads,
      resolution=triplane_resolution,
      upsample=triplane_upsample,
      channels=triplane_channels,
    )
    self.nerf = NeRFMLP(triplane_channels, nerf_width, nerf_depth, activation=F.silu)

  def encode(self, image, camera_to_world=None, intrinsics=None):
    """Returns the planes [B, 3, P, P, C] of images [B, H, W, 3] in 0..1; the camera is ignored."""
    return self.decoder(self.encoder(image))

  def _density(self, raw):
    return torch.exp(raw - 1)

  def _trace(self, table, origins, directions, jitter):
    near, far = _intersect_cube(origins, directions, 0.999 * self.half_size)
    distances, _ = _bins(near, far, self.num_samples, jitter)
    raw, color = self._field(table, origins[..., None, :] + distances[..., None] * directions[..., None, :])
    delta = torch.where(far - near > 0.01, 1 / self.num_samples, 0.0)[..., None]
    return _composite(self._density(raw), color, distances, delta)


def _table(planes):
  """Returns planes [B, 3, P, P, C] as [B, 3, C, P, P], the layout of grid_sample."""
  return planes.permute(0, 1, 4, 2, 3).contiguous()


def _pixel_rays(camera_to_world, intrinsics, size):
  """Returns (origins, unit directions) [..., size, size, 3] of the rays through all pixel centres.

  The centre of the pixel in row i and column j is ((j + 0.5) / size, (i + 0.5) / size).
  """
  centre = (torch.arange(size, dtype=intrinsics.dtype, device=intrinsics.device) + 0.5) / size
  x = ((centre - intrinsics[..., 2, None]) / intrinsics[..., 0, None])[..., None, :]
  y = ((centre - intrinsics[..., 3, None]) / intrinsics[..., 1, None])[..., :, None]
  x, y = torch.broadcast_tensors(x, y)
  # Compute the direction as (point one step along the ray) - origin, by a matrix product, to match the rounding of
  # OpenLRM: the last bit decides whether a sample on a face of the cube counts as inside.
  local = torch.stack([x, -y, -torch.ones_like(x), torch.ones_like(x)], dim=-1).flatten(-3, -2)
  ahead = (camera_to_world @ local.transpose(-1, -2)).transpose(-1, -2)[..., :3].reshape(*x.shape, 3)
  origins = camera_to_world[..., None, None, :3, 3].expand(ahead.shape)
  return origins, F.normalize(ahead - origins, dim=-1)


def _intersect_cube(origins, directions, half_size):
  """Returns the distances (near, far) [...] where rays enter and leave the cube, both 0 if a ray misses it."""
  tiny = torch.where(directions < 0, -1e-7, 1e-7)
  inverse = 1 / torch.where(directions.abs() < 1e-7, tiny, directions)
  first, second = (-half_size - origins) * inverse, (half_size - origins) * inverse
  near = torch.minimum(first, second).amax(dim=-1).clamp(min=0)
  far = torch.maximum(first, second).amin(dim=-1)
  hit = far > near
  return torch.where(hit, near, 0.0), torch.where(hit, far, 0.0)


def _bins(near, far, num_samples, jitter):
  """Returns (distances [..., S], bin width [..., 1]): the midpoints of S equal bins, or random points in them."""
  delta = ((far - near) / num_samples)[..., None]
  index = torch.arange(num_samples, dtype=near.dtype, device=near.device).expand(*near.shape, num_samples)
  return near[..., None] + delta * (index + (torch.rand_like(index) if jitter else 0.5)), delta


def _ray_weights(density, delta):
  """Returns w_i = T_i (1 - exp(-density_i delta_i)), T_i = exp(-sum_{j<i} density_j delta_j)."""
  optical_depth = density * delta
  before = optical_depth.cumsum(dim=-1) - optical_depth
  return torch.exp(-before) * -torch.expm1(-optical_depth)


def _composite(density, color, distances, delta):
  """Returns the `Pixels` of samples along rays, over a black background."""
  weights = _ray_weights(density, delta)
  opacity = -torch.expm1(-(density * delta).sum(dim=-1))
  return Pixels((weights[..., None] * color).sum(dim=-2), (weights * distances).sum(dim=-1), opacity)


def _midpoints(x, dim):
  """Returns the means of neighbouring values along a dimension."""
  length = x.shape[dim] - 1
  return (x.narrow(dim, 0, length) + x.narrow(dim, 1, length)) / 2


def _sample_by_weights(distances, weights, uniform):
  """Returns distances drawn in proportion to the interval weights, by inverting their cumulative sum at `uniform`.

  The weights are first blurred (a maximum, then a mean of two) and increased by 0.01, as in mip-NeRF.
  """
  widened = F.max_pool1d(weights.flatten(0, -2)[:, None], 2, stride=1, padding=1)
  widened = (F.avg_pool1d(widened, 2, stride=1) + 0.01).reshape(weights.shape)
  midpoints = _midpoints(distances, -1)
  probability = widened[..., 1:-1] + 1e-5
  cumulative = (probability / probability.sum(dim=-1, keepdim=True)).cumsum(dim=-1)
  cumulative = F.pad(cumulative, (1, 0))
  after = torch.searchsorted(cumulative, uniform.contiguous(), right=True)
  below, above = (after - 1).clamp(min=0), after.clamp(max=cumulative.shape[-1] - 1)
  length = cumulative.gather(-1, above) - cumulative.gather(-1, below)
  part = (uniform - cumulative.gather(-1, below)) / torch.where(length < 1e-5, 1.0, length)
  start, end = midpoints.gather(-1, below), midpoints.gather(-1, above)
  return start + part * (end - start)
