"""OpenLRM 1.1 base: DINOv2 ViT-B/14 with registers, 12 layers of width 768, 3 planes of 64 x 64 x 48 [SPEC.md].

  python -m lrm_jax.train --config=configs/openlrm_base.py --workdir=runs/openlrm_base --config.data.path=DIR \
      --config.loss.lpips_network=FILE [--config.encoder_weights=FILE | --config.init_from=DIR]

Hardware: none of ours has trained it yet. To expect: 260,201,972 parameters; `--dry_run` prints memory and operations.
`--config.init_from` fine-tunes from published weights (their licence forbids commercial use: docs/weights.md);
`python -m lrm_jax.export --format=openlrm` gives back what OpenLRM's own loader opens.
What is not set here is as in configs/base.py.
"""

import math

from ml_collections import ConfigDict

from lrm_jax.configs import base


def get_config() -> ConfigDict:
  config = base.get_config()
  config.batch_size = 256  # objects a step [ours]

  model = config.model
  model.architecture = 'openlrm'  # Two passes of samples, 16 numbers for a camera, its planes and colours.
  del model.plane_axes, model.color_padding, model.encoder_interpolate_offset
  model.image_size = 336  # px: 24 x 24 patches
  model.encoder = 'dinov2'
  model.patch_size = 14  # px
  model.encoder_registers = 4
  model.encoder_table_size = 37  # patches along the side: 518 px
  model.camera_width = 1024  # channels of the camera embedding
  model.decoder_width = 768
  model.decoder_depth = 12
  model.decoder_num_heads = 12
  model.triplane_channels = 48
  model.nerf_depth = 4
  model.num_samples = 96  # a ray: half evenly, half where those found something

  data = config.data
  data.window = 96  # px
  data.resize_min = 96  # px
  data.resize_max = 288  # px
  data.background = (0.0, 0.5, 1.0)  # Each target view has one of them.
  data.fov = math.degrees(2 * math.atan(0.5 / 0.75))  # 67.4 degrees: the focal length is 0.75 of the width
  data.fill = 0.85  # of the picture's side, by the object [M]

  config.loss.lpips_weight = 1.0
  config.loss.total_variation_weight = 5e-4
  return config
