"""OpenLRM 1.1 small: DINOv2 ViT-S/14 with registers, 12 layers of width 512, 3 planes of 64 x 64 x 32.

  python -m lrm_jax.train --config=openlrm_small --workdir=runs/openlrm_small --config.data.path=DIR \
      --config.loss.lpips_network=FILE [--config.encoder_weights=FILE | --config.init_from=DIR]

Hardware: we have not trained it yet. Expected: 111,390,948 parameters; `--dry_run` prints memory and operations.
Values that are not set here are those of configs/openlrm_base.py. Source: OpenLRM's code and configurations.
"""

from ml_collections import ConfigDict

from lrm_jax.configs import openlrm_base


def get_config() -> ConfigDict:
  config = openlrm_base.get_config()
  model, data = config.model, config.data
  model.image_size = 224  # px: 16 x 16 patches
  model.encoder_width = 384  # channels
  model.encoder_num_heads = 6
  model.decoder_width = 512  # channels
  model.decoder_num_heads = 8
  model.triplane_channels = 32
  data.window = 64  # px
  data.resize_min = 64  # px
  data.resize_max = 192  # px
  return config
