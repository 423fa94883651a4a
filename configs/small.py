"""A small LRM for one GPU of 24 GB or more: DINO ViT-S/16, 12 layers of width 512, 3 planes of 64 x 64 x 32.

  python -m lrm_jax.train --config=small --workdir=runs/small --config.data.path=DIR \
      --config.loss.lpips_network=vgg16_lpips.npz --config.encoder_weights=dino_deitsmall16_pretrain.pth

Hardware: one GPU. Expected: 91 million parameters; `--dry_run` prints them, the memory and the operations.
The sizes are similar to those of OpenLRM's small model [C]. Values that are not set here are those of configs/base.py.
"""

from ml_collections import ConfigDict

from lrm_jax.configs import base


def get_config() -> ConfigDict:
  config = base.get_config()
  config.num_train_steps = 100_000  # steps [ours]
  config.batch_size = 32  # objects per step [ours]
  config.gradient_accumulation = 2  # micro-batches of 16 objects [ours]
  config.checkpoint_every = 1000  # steps [ours]

  model = config.model
  model.image_size = 224  # px: 14 x 14 patches, the size that DINO was trained with [C]
  model.encoder_width = 384  # channels: ViT-S/16
  model.encoder_num_heads = 6
  model.camera_width = 512  # channels
  model.decoder_width = 512  # channels
  model.decoder_depth = 12  # layers
  model.decoder_num_heads = 8
  model.triplane_channels = 32
  model.nerf_depth = 4  # linear layers, including the output layer
  model.num_samples = 96  # samples per ray

  data = config.data
  data.window = 64  # px
  data.resize_min = 64  # px
  data.resize_max = 192  # px
  data.eval_size = 96  # px

  # The warm-up follows num_train_steps: 2000 of 100,000 steps [ours].
  config.optimizer.warmup_steps = config.get_ref('num_train_steps') // 50
  config.mesh.data, config.mesh.fsdp = -1, 1  # The parameters fit on every device, so they are not sharded.
  return config
