"""OpenLRM 1.1 base: DINOv2 ViT-B/14 with registers, 12 layers of width 768, 3 planes of 64 x 64 x 48.

  python -m lrm_jax.train --config=openlrm_base --workdir=runs/openlrm_base --config.data.path=DIR \
      --config.loss.lpips_network=FILE [--config.encoder_weights=FILE | --config.init_from=DIR]

Hardware: we have not trained it yet. Expected: 260,201,972 parameters; `--dry_run` prints memory and operations.
`--config.init_from` fine-tunes from the published weights, whose licence forbids commercial use (docs/weights.md).
`python -m lrm_jax.export --format=openlrm` writes a model that OpenLRM's own loader opens.
Values that are not set here are those of configs/base.py. Source: OpenLRM's code and configurations, unless tagged
otherwise; base.py explains the tags.
"""

import math

from ml_collections import ConfigDict

from lrm_jax.configs import base


def get_config() -> ConfigDict:
  config = base.get_config()
  config.batch_size = 256  # objects per step [ours]

  model = config.model
  # Two passes of samples per ray, a camera feature of 16 numbers, and fixed plane axes and colour padding.
  model.architecture = 'openlrm'
  del model.plane_axes, model.color_padding, model.encoder_interpolate_offset
  model.image_size = 336  # px: 24 x 24 patches
  model.encoder = 'dinov2'
  model.patch_size = 14  # px
  model.encoder_registers = 4  # register tokens
  model.encoder_table_size = 37  # patches along the side of DINOv2's position table (518 px)
  model.decoder_width = 768  # channels
  model.decoder_depth = 12  # layers
  model.decoder_num_heads = 12
  model.triplane_channels = 48
  model.nerf_depth = 4  # linear layers, including the output layer
  model.num_samples = 96  # samples per ray: half evenly spaced, half by importance

  data = config.data
  data.window = 96  # px
  data.resize_min = 96  # px
  data.resize_max = 288  # px
  data.background = (0.0, 0.5, 1.0)  # grey levels; each target view has one of them
  data.fov = math.degrees(2 * math.atan(0.5 / 0.75))  # 67.4 degrees: the focal length is 0.75 image widths
  data.fill = 0.85  # fraction of the image side that the object takes [M]

  config.loss.lpips_weight = 1.0
  config.loss.total_variation_weight = 5e-4
  return config
