"""An LRM of 3 billion parameters, for clusters: DINOv2 ViT-L/14, 36 layers of width 2,048, 3 planes of 96 x 96 x 80.

  python -m lrm_jax.train --config=configs/huge.py --workdir=runs/huge --config.data.path=DIR \
      --config.loss.lpips_network=vgg16_lpips.npz --config.encoder_weights=dinov2_vitl14_reg4_pretrain.pth

Hardware: from 8 H100 of 80 GB on; docs/scale.md has what it takes where, as compiled ahead of time. Nobody has trained it:
there is no such model in the paper. It is the paper's, made wider, deeper and finer. To expect: 3,039 million parameters.
What is not set here is as in configs/base.py; all that is set here is our choice.
"""

from ml_collections import ConfigDict

from lrm_jax.configs import base


def get_config() -> ConfigDict:
  config = base.get_config()

  model = config.model
  model.image_size = 504  # px: 36 x 36 patches
  model.encoder = 'dinov2'
  del model.encoder_interpolate_offset
  model.patch_size = 14  # px: 1,297 tokens
  model.encoder_registers = 4
  model.encoder_width = 1024  # ViT-L/14
  model.encoder_depth = 24
  model.encoder_num_heads = 16
  model.encoder_table_size = 37  # patches along the side: 518 px
  model.decoder_width = 2048
  model.decoder_depth = 36
  model.decoder_num_heads = 32
  model.triplane_resolution = 48  # tokens along the side of a plane: 3 x 48 x 48 = 6,912
  model.remat = 'full'  # 8 objects a device then fit an A100 of 40 GB (docs/scale.md)

  config.optimizer.learning_rate = 2e-4  # half of base.py's: the wider, the lower
  return config
