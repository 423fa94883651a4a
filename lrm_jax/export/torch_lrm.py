"""Runs models of lrm_jax in plain PyTorch: this file, torch_lrm.json and torch_lrm.safetensors beside it, and `torch`.

  import torch_lrm
  model = torch_lrm.load('DIR')                                 # .to('cuda') as any module of PyTorch
  planes = model.encode(image)                                  # [B, H, W, 3] in 0..1 -> [B, 3, P, P, C]
  pixels = model.render(planes, camera_to_world, intrinsics, size=128)   # .color, .depth, .opacity of [B, V] cameras
  density, color = model.query(planes, points)                  # [B, Q, 3] in the cube

Shapes, names and numbers are lrm_jax's: pictures have their channels last, the object over a grey of
`model.input_background`, in pictures of `model.image_size` pixels. World: right-handed, z up, the object in the cube
[-half_size, half_size]^3. Cameras: `camera_to_world` [4, 4] with OpenGL axes (x right, y up, looking along -z);
intrinsics (fx, fy, cx, cy) divided by the picture's size, v down. Without a camera, `encode` takes the one that the
model was trained with: at `model.input_position`, looking at the origin, of `model.fov` degrees.

Everything is differentiable and may be trained on; `render(..., jitter=True)` then draws samples along rays at random.
Written from the equations of LRM (arXiv 2311.04400), OpenLRM, TripoSR, NeRF, DINO and DINOv2. No other files of lrm_jax
are needed. Legend: B pictures, V views, N tokens, M image tokens, D width, P texels along a plane, C channels, Q points,
R rays, S samples a ray.
"""

import json
import math
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
import torch.nn.functional as F

CONFIG, TENSORS = 'torch_lrm.json', 'torch_lrm.safetensors'
_TYPES = {'F32': torch.float32, 'F16': torch.float16, 'BF16': torch.bfloat16}
_EMPTY = -torch.finfo(torch.float32).max / 8  # A density before its activation: 0 after it, and means with it too.


class Pixels(NamedTuple):
  """Colour [..., 3] in 0..1, depth in world units (sum of weights times distances), opacity in 0..1."""

  color: torch.Tensor
  depth: torch.Tensor
  opacity: torch.Tensor


def load(directory) -> 'TriplaneModel':
  """Returns the model of a directory that `python -m lrm_jax.export --format=torch` wrote, ready to use, float32.

  Raises OSError where there is none, RuntimeError (PyTorch's own) where tensors do not fit the configuration.
  """
  directory = Path(directory)
  config = json.loads((directory / CONFIG).read_text())
  sizes = dict(config['model'])
  with torch.device('meta'):  # No memory, and no random numbers, for what is read next.
    model = {'lrm': LRM, 'openlrm': OpenLRM, 'triposr': TripoSR}[sizes.pop('architecture', 'lrm')](**sizes)
  model.load_state_dict(_read(directory / TENSORS), assign=True)
  model.fov, model.input_background = config['data']['fov'], config['data'].get('input_background', 1.0)
  return model.eval()


def _read(path: Path) -> dict[str, torch.Tensor]:
  """Returns the tensors of a safetensors file: the length of its header, the header (JSON), the numbers."""
  with open(path, 'rb') as file:
    length = int.from_bytes(file.read(8), 'little')
    header = json.loads(file.read(length))
    header.pop('__metadata__', None)
    tensors = {}
    for name, entry in header.items():
      start, end = entry['data_offsets']
      file.seek(8 + length + start)
      numbers = torch.frombuffer(bytearray(file.read(end - start)), dtype=_TYPES[entry['dtype']])
      tensors[name] = numbers.reshape(entry['shape']).float()
  return tensors


# Parts of the transformers.


class SelfAttention(nn.Module):
  """Multi-head attention of tokens to each other."""

  def __init__(self, width, num_heads, *, bias, out_bias=None):
    super().__init__()
    self.num_heads = num_heads
    self.qkv = nn.Linear(width, 3 * width, bias)
    self.out = nn.Linear(width, width, bias if out_bias is None else out_bias)

  def forward(self, x):
    return self.out(_attend(*self.qkv(x).chunk(3, dim=-1), self.num_heads))


class CrossAttention(nn.Module):
  """Multi-head attention of tokens to a context of another width."""

  def __init__(self, width, context_width, num_heads, *, bias, out_bias=None):
    super().__init__()
    self.num_heads = num_heads
    self.q = nn.Linear(width, width, bias)
    self.kv = nn.Linear(context_width, 2 * width, bias)
    self.out = nn.Linear(width, width, bias if out_bias is None else out_bias)

  def forward(self, x, context):
    return self.out(_attend(self.q(x), *self.kv(context).chunk(2, dim=-1), self.num_heads))


def _attend(q, k, v, num_heads):
  q, k, v = (x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (q, k, v))
  return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class MLP(nn.Module):
  """Linear, activation, linear."""

  def __init__(self, width, hidden, out, activation):
    super().__init__()
    self.activation = activation
    self.expand = nn.Linear(width, hidden)
    self.contract = nn.Linear(hidden, out)

  def forward(self, x):
    return self.contract(self.activation(self.expand(x)))


class GEGLU(nn.Module):
  """Linear, value * GELU(gate), linear."""

  def __init__(self, width, hidden):
    super().__init__()
    self.expand = nn.Linear(width, 2 * hidden)
    self.contract = nn.Linear(hidden, width)

  def forward(self, x):
    value, gate = self.expand(x).chunk(2, dim=-1)
    return self.contract(value * F.gelu(gate))


class ModulatedLayerNorm(nn.Module):
  """LN(x) * (1 + scale) + shift, where (shift, scale) come from the camera embedding."""

  def __init__(self, width, camera_width):
    super().__init__()
    self.norm = nn.LayerNorm(width, eps=1e-6)
    self.modulation = nn.Linear(camera_width, 2 * width)

  def forward(self, x, camera):
    shift, scale = self.modulation(F.silu(camera))[:, None].chunk(2, dim=-1)
    return self.norm(x) * (1 + scale) + shift


# Encoders: a picture -> the class token, then one token a patch, row by row.


class EncoderBlock(nn.Module):
  """x + attention(LN(x)), then x + MLP(LN(x)); DINOv2 scales each branch by a learned vector."""

  def __init__(self, width, num_heads, *, epsilon, scaled):
    super().__init__()
    self.norm1 = nn.LayerNorm(width, eps=epsilon)
    self.attention = SelfAttention(width, num_heads, bias=True)
    self.norm2 = nn.LayerNorm(width, eps=epsilon)
    self.mlp = MLP(width, 4 * width, width, F.gelu)
    self.scale1, self.scale2 = (nn.Parameter(torch.ones(width)) for _ in range(2)) if scaled else (1.0, 1.0)

  def forward(self, x):
    x = x + self.scale1 * self.attention(self.norm1(x))
    return x + self.scale2 * self.mlp(self.norm2(x))


class Encoder(nn.Module):
  """DINO's or DINOv2's vision transformer.

  The position table of `table_size` x `table_size` patches is resized by bicubic interpolation. DINO reads it at
  n patches by (n + `interpolate_offset`) / table_size; DINOv2 with registers antialiases.
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
    """Returns tokens [B, 1 + patches, D] of pictures [B, H, W, 3] in 0..1."""
    if self.kind == 'dino':  # ImageNet's statistics; DINOv2 as OpenLRM has it takes pictures as they are.
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


# Decoders: image tokens -> planes [B, plane, row, column, channel].


class DecoderBlock(nn.Module):
  """Cross-attention, self-attention, MLP; before each a norm that the camera modulates, around each a residual."""

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
  """LRM's: learned tokens attend to the picture's and to each other; the first `pose_rows` rows of a pose are told."""

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


class TripoSRBlock(nn.Module):
  """Self-attention, cross-attention, MLP; before each a norm, around each a residual."""

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
  """Learned tokens -> norm, linear, blocks, linear, and the tokens themselves added."""

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
  """Tokens [B, 3 R R, u u C] that each hold u x u texels of their plane, row by row -> [B, 3, R u, R u, C]."""
  x = x.unflatten(2, (upsample, upsample, -1)).unflatten(1, (3, resolution, resolution))
  return x.transpose(3, 4).flatten(4, 5).flatten(2, 3)


# The field, and rays through it.


class NeRFMLP(nn.Module):
  """Features of the three planes side by side [..., 3 C] -> (density before its activation, colour in 0..1)."""

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
  """What all models have in common: planes are made of a picture, looked at, and asked."""

  input_position = (0.0, -2.0, 0.0)
  half_size = 1.0
  fov = 50.0
  input_background = 1.0

  def forward(
    self, image, camera_to_world, intrinsics, target_camera_to_world, target_intrinsics, size, background=1.0
  ):
    """Returns the `Pixels` of the target views of pictures; see `encode` and `render`."""
    planes = self.encode(image, camera_to_world, intrinsics)
    return self.render(planes, target_camera_to_world, target_intrinsics, size, background)

  def encode(self, image, camera_to_world=None, intrinsics=None):
    """Returns the planes [B, 3, P, P, C] of pictures [B, H, W, 3] in 0..1, taken by cameras [B, 4, 4] and [B, 4]."""
    raise NotImplementedError

  def render(self, planes, camera_to_world, intrinsics, size, background=1.0, *, jitter=False, rays_per_chunk=4096):
    """Returns the `Pixels` of views: colour [B, V, size, size, 3], depth and opacity [B, V, size, size].

    `camera_to_world` [B, V, 4, 4], `intrinsics` [B, V, 4]; `background` is a grey, or a tensor [B, V, 3].
    `rays_per_chunk` rays of each object are computed at once: it bounds the memory, when no gradient is asked for.
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
    """Returns (density [B, Q] of 0 or more, colour [B, Q, 3]) at points [B, Q, 3] of the world."""
    raw, color = self._field(_table(planes), points)
    return self._density(raw), color

  def _field(self, table, points):
    """Returns (density before its activation [B, ...], colour) at points [B, ..., 3]: grid_sample, then the MLP."""
    scaled = (points / self.half_size).flatten(1, -2)
    where = torch.stack([scaled[..., list(axes)] for axes in self.plane_axes], dim=1)  # [B, 3, Q, 2]
    features = F.grid_sample(table.flatten(0, 1), where.flatten(0, 1)[:, :, None], align_corners=False)[..., 0]
    features = features.unflatten(0, (-1, 3)).flatten(1, 2).transpose(1, 2)  # [B, Q, 3 C]
    return self.nerf(features.unflatten(1, points.shape[1:-1]))

  def _density(self, raw):
    raise NotImplementedError

  def _trace(self, table, origins, directions, jitter):
    """Returns the `Pixels` over black of rays [B, R, 3]."""
    raise NotImplementedError

  def _input_camera(self, image, camera_to_world, intrinsics):
    """Returns the cameras [B, 4, 4] and [B, 4] as given, and the one of training for what is not."""
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
  """Arguments are those of the section `model` of lrm_jax's configurations."""

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
    encoder='dino',
    encoder_registers=0,
    encoder_interpolate_offset=0.0,
    encoder_norm_epsilon=1e-6,
    pose_rows=4,
    plane_axes=('xy', 'xz', 'yz'),
    density_scale=1.0,
    color_padding=0.0,
    **unused,  # Of training: how memory is saved, the type it computed in, how tables began.
  ):
    super().__init__()
    self.image_size, self.num_samples, self.density_scale = image_size, num_samples, density_scale
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
    self.nerf = NeRFMLP(triplane_channels, nerf_width, nerf_depth, activation=F.relu, color_padding=color_padding)

  def encode(self, image, camera_to_world=None, intrinsics=None):
    """Returns the planes [B, 3, P, P, C] of pictures [B, H, W, 3] in 0..1, taken by cameras [B, 4, 4] and [B, 4]."""
    return self.decoder(self.encoder(image), *self._input_camera(image, camera_to_world, intrinsics))

  def _density(self, raw):
    return self.density_scale * F.softplus(raw - 1)

  def _trace(self, table, origins, directions, jitter):
    near, far = _intersect_cube(origins, directions, 1.0)
    distances, delta = _bins(near, far, self.num_samples, jitter)
    raw, color = self._field(table, origins[..., None, :] + distances[..., None] * directions[..., None, :])
    return _composite(self._density(raw), color, distances, delta)


class OpenLRM(LRM):
  """LRM with 16 numbers for a camera and two passes along each ray: evenly, then where the first found something."""

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
    raw, color = self._look(table, origins, directions, coarse)
    with torch.no_grad():
      middle_raw, delta = _middles(raw, -1), coarse.diff(dim=-1)
      fine = _where_weights_are(coarse, _ray_weights(self._density(middle_raw), delta), uniform)
    both = (coarse, fine), *zip((raw, color), self._look(table, origins, directions, fine))
    distances, raw, color = (torch.cat(parts, dim=2) for parts in both)
    distances, order = distances.sort(dim=2, stable=True)
    raw = raw.gather(2, order)
    color = color.gather(2, order[..., None].expand(color.shape))
    density = self._density(_middles(raw, -1))
    return _composite(density, _middles(color, -2), _middles(distances, -1), distances.diff(dim=-1))

  def _look(self, table, origins, directions, distances):
    """What lies outside of the cube, its faces not, counts as empty."""
    points = origins[..., None, :] + distances[..., None] * directions[..., None, :]
    raw, color = self._field(table, points)
    inside = (points.abs() <= 1).all(dim=-1)
    return torch.where(inside, raw, raw.new_tensor(_EMPTY)), torch.where(
      inside[..., None], color, color.new_tensor(0.0)
    )


class TripoSR(TriplaneModel):
  """No camera is asked for; its cube has a half-size of `radius`; each step along a ray counts as 1 / num_samples."""

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
    self.pooler = nn.Linear(encoder_width, encoder_width)  # No token passes it; its files have it.
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
    """Returns the planes [B, 3, P, P, C] of pictures [B, H, W, 3] in 0..1; the camera is not asked for."""
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
  """[B, 3, P, P, C] -> [B, 3, C, P, P], as grid_sample wants it."""
  return planes.permute(0, 1, 4, 2, 3).contiguous()


def _pixel_rays(camera_to_world, intrinsics, size):
  """Returns (origins, unit directions) [..., size, size, 3] through pixel centres ((j + 0.5) / size, (i + 0.5) / size)."""
  centre = (torch.arange(size, dtype=intrinsics.dtype, device=intrinsics.device) + 0.5) / size
  x = ((centre - intrinsics[..., 2, None]) / intrinsics[..., 0, None])[..., None, :]
  y = ((centre - intrinsics[..., 3, None]) / intrinsics[..., 1, None])[..., :, None]
  x, y = torch.broadcast_tensors(x, y)
  # The point one step ahead, minus the origin, by this product: models that were trained in PyTorch had it rounded so,
  # and the last bit decides whether a sample on a face of the cube counts.
  local = torch.stack([x, -y, -torch.ones_like(x), torch.ones_like(x)], dim=-1).flatten(-3, -2)
  ahead = (camera_to_world @ local.transpose(-1, -2)).transpose(-1, -2)[..., :3].reshape(*x.shape, 3)
  origins = camera_to_world[..., None, None, :3, 3].expand(ahead.shape)
  return origins, F.normalize(ahead - origins, dim=-1)


def _intersect_cube(origins, directions, half_size):
  """Returns (near, far) [...]: where rays enter and leave the cube; both 0 where they miss."""
  tiny = torch.where(directions < 0, -1e-7, 1e-7)
  inverse = 1 / torch.where(directions.abs() < 1e-7, tiny, directions)
  first, second = (-half_size - origins) * inverse, (half_size - origins) * inverse
  near = torch.minimum(first, second).amax(dim=-1).clamp(min=0)
  far = torch.maximum(first, second).amin(dim=-1)
  hit = far > near
  return torch.where(hit, near, 0.0), torch.where(hit, far, 0.0)


def _bins(near, far, num_samples, jitter):
  """Returns (distances [..., S], delta [..., 1]): the middle of each of S equal bins, or anywhere in it."""
  delta = ((far - near) / num_samples)[..., None]
  index = torch.arange(num_samples, dtype=near.dtype, device=near.device).expand(*near.shape, num_samples)
  return near[..., None] + delta * (index + (torch.rand_like(index) if jitter else 0.5)), delta


def _ray_weights(density, delta):
  """Returns w_i = T_i (1 - exp(-density_i delta_i)), T_i = exp(-sum_{j<i} density_j delta_j)."""
  optical_depth = density * delta
  before = optical_depth.cumsum(dim=-1) - optical_depth
  return torch.exp(-before) * -torch.expm1(-optical_depth)


def _composite(density, color, distances, delta):
  weights = _ray_weights(density, delta)
  opacity = -torch.expm1(-(density * delta).sum(dim=-1))
  return Pixels((weights[..., None] * color).sum(dim=-2), (weights * distances).sum(dim=-1), opacity)


def _middles(x, dim):
  length = x.shape[dim] - 1
  return (x.narrow(dim, 0, length) + x.narrow(dim, 1, length)) / 2


def _where_weights_are(distances, weights, uniform):
  """Returns distances at `uniform` numbers of the cumulative sum of the weights of intervals, widened and plus 0.01."""
  widened = F.max_pool1d(weights.flatten(0, -2)[:, None], 2, stride=1, padding=1)
  widened = (F.avg_pool1d(widened, 2, stride=1) + 0.01).reshape(weights.shape)
  middles = _middles(distances, -1)
  probability = widened[..., 1:-1] + 1e-5
  cumulative = (probability / probability.sum(dim=-1, keepdim=True)).cumsum(dim=-1)
  cumulative = F.pad(cumulative, (1, 0))
  after = torch.searchsorted(cumulative, uniform.contiguous(), right=True)
  below, above = (after - 1).clamp(min=0), after.clamp(max=cumulative.shape[-1] - 1)
  length = cumulative.gather(-1, above) - cumulative.gather(-1, below)
  part = (uniform - cumulative.gather(-1, below)) / torch.where(length < 1e-5, 1.0, length)
  start, end = middles.gather(-1, below), middles.gather(-1, above)
  return start + part * (end - start)
