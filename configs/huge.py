"""An LRM of 3 billion parameters for clusters: DINOv2 ViT-L/14, 36 layers of width 2,048, 3 planes of 96 x 96 x 80.

  python -m lrm_jax.train --config=huge --workdir=runs/huge --config.data.path=DIR \
      --config.loss.lpips_network=vgg16_lpips.npz --config.encoder_weights=dinov2_vitl14_reg4_pretrain.pth

Hardware: at least 8 H100 of 80 GB; docs/scale.md lists memory and time by accelerator, compiled ahead of time.
The paper has no such model: this is the paper's, but wider, deeper and with finer planes. It has never been trained.
Expected: 3,039 million parameters.
Values that are not set here are those of configs/base.py. All values set here are our choice.
"""

from ml_collections import ConfigDict

from lrm_jax.configs import base


def get_config() -> ConfigDict:
  config = base.get_config()

  model = config.model
  model.image_size = 504  # px: 36 x 36 patches
  model.encoder = 'dinov2'
  del model.encoder_interpolate_offset
  model.patch_size = 14  # px; with the class token 1,297 tokens
  model.encoder_registers = 4  # register tokens
  model.encoder_width = 1024  # channels: ViT-L/14
  model.encoder_depth = 24  # layers
  model.encoder_num_heads = 16
  model.encoder_table_size = 37  # patches along the side of DINOv2's position table (518 px)
  model.decoder_width = 2048  # channels
  model.decoder_depth = 36  # layers
  model.decoder_num_heads = 32
  model.triplane_resolution = 48  # tokens along the side of a plane: 3 x 48 x 48 = 6,912 tokens
  model.remat = 'full'  # 8 objects per device then fit into an A100 of 40 GB (docs/scale.md)

  config.optimizer.learning_rate = 2e-4  # half of that in base.py: wider models need lower rates
  return config
