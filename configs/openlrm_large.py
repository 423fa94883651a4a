"""OpenLRM 1.1 large: DINOv2 ViT-B/14 with registers, 16 layers of width 1024, 3 planes of 64 x 64 x 80.

  python -m lrm_jax.train --config=openlrm_large --workdir=runs/openlrm_large --config.data.path=DIR \
      --config.loss.lpips_network=FILE [--config.encoder_weights=FILE | --config.init_from=DIR]

Hardware: we have not trained it yet. Expected: 452,138,004 parameters; `--dry_run` prints memory and operations.
Values that are not set here are those of configs/openlrm_base.py. Source: OpenLRM's code and configurations.
"""

from ml_collections import ConfigDict

from lrm_jax.configs import openlrm_base


def get_config() -> ConfigDict:
  config = openlrm_base.get_config()
  model, data = config.model, config.data
  model.image_size = 448  # px: 32 x 32 patches
  model.decoder_width = 1024  # channels
  model.decoder_depth = 16  # layers
  model.decoder_num_heads = 16
  model.triplane_channels = 80
  model.num_samples = 128  # samples per ray
  data.window = 128  # px
  data.resize_min = 128  # px
  data.resize_max = 384  # px
  return config
