"""The sweeps of launch/ablations.py: for each variant, the values of the configuration that differ from the base.

A value with braces, such as '{videos}', is an input of the user's (--input=videos=DIR). Variants whose inputs are not
given are left out. The first variant is the base, with which the others are compared.
"""

import dataclasses

Overrides = dict[str, object]  # 'model.decoder_depth' -> 2


@dataclasses.dataclass(frozen=True)
class Sweep:
  """Trainings of one configuration, evaluated on `split` of `data` at `size` px.

  `common` are overrides of all runs, and `variants` {name: overrides}, of which the first is the base.
  """

  config: str
  data: str
  split: str
  size: int
  variants: dict[str, Overrides]
  common: Overrides = dataclasses.field(default_factory=dict)


# A ViT-S/14 cut to 8 blocks. `dinov2` is a file of DINOv2 ViT-S/14.
_VIT_S = {
  'model.encoder': 'dinov2',
  'model.image_size': 112,
  'model.patch_size': 14,
  'model.encoder_width': 384,
  'model.encoder_depth': 8,
  'model.encoder_num_heads': 6,
  'model.encoder_table_size': 37,
}

QUICKSTART = Sweep(
  config='quickstart',
  data='embedded',
  split='validation',
  size=64,
  variants={
    'base': {},
    # Choices of the paper.
    'decoder_depth_2': {'model.decoder_depth': 2},
    'decoder_depth_8': {'model.decoder_depth': 8},
    'nerf_depth_4': {'model.nerf_depth': 4},
    'nerf_depth_6': {'model.nerf_depth': 6},
    'triplane_resolution_4': {'model.triplane_resolution': 4},
    'triplane_resolution_12': {'model.triplane_resolution': 12},
    'cameras_not_normalised': {'data.normalise_cameras': False},
    'side_views_3': {'data.num_side_views': 3},
    'render_size_16': {'data.window': 16, 'data.resize_min': 16, 'data.resize_max': 32},
    'render_size_48': {'data.window': 48, 'data.resize_min': 48},
    'lpips': {'loss.lpips_weight': 2.0, 'loss.lpips_network': '{lpips}'},
    'lpips_0.1': {'loss.lpips_weight': 0.1, 'loss.lpips_network': '{lpips}'},
    # Our choices.
    'no_mask_loss': {'loss.mask_weight': 0.0},
    'moving_average': {'ema_decay': 0.99},
    'half_size_0.85': {'model.half_size': 0.85},  # Normalised objects are within 0.845.
    'opacity_entropy': {'loss.opacity_entropy_weight': 0.01},
    # The embedded dataset has no depth: `depth` is the same dataset with it (docs/results/demo.md).
    'depth_loss': {'data.path': '{depth}', 'data.eval_objects': 0, 'loss.depth_weight': 0.1},
    'surface_loss': {'data.path': '{depth}', 'data.eval_objects': 0, 'loss.surface_weight': 0.2},
    'surface_loss_2': {'data.path': '{depth}', 'data.eval_objects': 0, 'loss.surface_weight': 2.0},
    'normal_loss': {'data.path': '{depth}', 'data.eval_objects': 0, 'loss.normal_weight': 0.02},
    'with_procedural': {'data.mixture.procedural.path': '{procedural}'},
    'only_procedural': {'data.path': '{procedural}', 'data.eval_objects': 0},
    'encoder_vit_s': _VIT_S,
    'encoder_dinov2': {
      **_VIT_S,
      'encoder_weights': '{dinov2}',
      'init_partial': True,
      'optimizer.multipliers': ('encoder/*=0.1',),
    },
    'adamw': {'optimizer.muon': False},
    'no_mirror': {'data.mirror': False},
    'no_color_permutation': {'data.permute_colors': False},
    'no_foreground_bias': {'data.foreground_bias': 0.0},
  },
)

PAPER = Sweep(
  config='base',
  data='{objects}',
  split='validation',
  size=128,
  common={
    'data.path': '{objects}',
    'data.eval_split': 'validation',
    'data.mixture.mvimgnet.path': '{videos}',
    'data.mixture.mvimgnet.eval_objects': 0,
    'loss.lpips_network': '{lpips}',
    'encoder_weights': '{dino}',
  },
  variants={
    'base': {},
    'only_rendered': {'data.mixture.mvimgnet.path': ''},
    'only_real': {
      'data.path': '{videos}',
      'data.times': 3.0,
      'data.keep_distance': True,
      'data.eval_objects': 0,
      'data.mixture.mvimgnet.path': '',
    },
    'decoder_depth_8': {'model.decoder_depth': 8},
    'decoder_depth_24': {'model.decoder_depth': 24},
    'nerf_depth_3': {'model.nerf_depth': 3},
    'nerf_depth_5': {'model.nerf_depth': 5},
    'triplane_resolution_16': {'model.triplane_resolution': 16},
    'triplane_resolution_48': {'model.triplane_resolution': 48},
    'cameras_not_normalised': {'data.normalise_cameras': False},
    'side_views_1': {'data.num_side_views': 1},
    'side_views_2': {'data.num_side_views': 2},
    'render_size_64': {'data.window': 64, 'data.resize_min': 64, 'data.resize_max': 192},
    'no_lpips': {'loss.lpips_weight': 0.0, 'loss.lpips_network': ''},
    'mask_loss': {'loss.mask_weight': 0.1},
    'moving_average': {'ema_decay': 0.9999},
    'with_procedural': {'data.mixture.procedural.path': '{procedural}'},
    'random_encoder': {'encoder_weights': ''},
  },
)

SWEEPS = {'quickstart': QUICKSTART, 'paper': PAPER}
