"""A small LRM for 2 CPU cores: it learns real objects in minutes. The shipped model was trained with it.

  python -m lrm_jax.train --config=quickstart --workdir=runs/quickstart

Hardware: any CPU with 2 cores and 2 GB. Expected: 15 minutes, 22.9 dB on held-out objects; the best baseline that
learns nothing reaches 18.4 dB. docs/results/quickstart.md has the learning curve, and a longer run.
It trains without LPIPS: the VGG16 weights that LPIPS needs are not shipped with this repository. Therefore its renders
are blurred where a model trained with LPIPS would invent detail.
Values that are not set here are those of configs/base.py. All values set here are our choice.
"""

from ml_collections import ConfigDict

from lrm_jax.configs import base


def get_config() -> ConfigDict:
  config = base.get_config()
  config.num_train_steps = 2000  # steps; more steps fit the training objects better, and unseen objects worse
  config.batch_size = 8  # objects per step
  config.rays_per_chunk = 256  # rays of each object
  config.checkpoint_every = 250  # steps
  config.keep_every = 0  # keeps only the last two checkpoints
  config.eval_every = 500  # steps
  config.max_skipped_steps = 3
  config.loss_spike = 0.0  # Only steps with a NaN or infinite loss or gradient are skipped.

  model = config.model
  model.image_size = 64  # px
  model.patch_size = 8  # px: 8 x 8 patches and the class token
  model.encoder_width = 192  # channels
  model.encoder_depth = 4  # layers
  model.encoder_num_heads = 3
  model.encoder_table_size = 8  # patches along the side, so that the position table is never resized
  model.encoder_interpolate_offset = 0.0
  model.camera_width = 64  # channels
  model.decoder_width = 192  # channels
  model.decoder_depth = 4  # layers
  model.decoder_num_heads = 3
  model.triplane_resolution = 8  # tokens along the side of a plane: 3 x 8 x 8 = 192 tokens
  model.triplane_upsample = 4  # texels per token along the side: planes of 32 x 32, at no cost in the transformer
  model.triplane_channels = 24
  model.plane_axes = ('xy', 'xz', 'yz')
  model.nerf_width = 32  # channels
  model.nerf_depth = 3  # linear layers, including the output layer
  model.num_samples = 24  # samples per ray
  model.density_scale = 10.0  # The initial volume is transparent fog, but can become solid within a few steps.
  model.color_padding = 0.0
  model.sinusoidal_positions = True  # The tables encode positions from the first step on.
  model.remat = 'full'  # On a CPU this is faster than 'none': the backward pass is bound by memory.
  model.dtype = 'float32'

  data = config.data
  data.path = 'embedded'
  data.eval_split = 'validation'  # Models and settings are chosen on it; `python -m lrm_jax.evaluate` reports test.
  data.eval_objects = 16  # during training; `python -m lrm_jax.evaluate` uses all
  data.eval_size = 64  # px
  data.num_side_views = 1
  data.window = 32  # px
  data.resize_min = 32  # px: a window then shows the whole view ...
  data.resize_max = 64  # px: ... and here a quarter of it
  data.foreground_bias = 0.5
  data.mirror = True
  data.permute_colors = True
  data.frontal_input_probability = 0.5
  data.num_workers = 0  # The main process reads: decoding images of 128 px costs little.

  config.loss.lpips_weight = 0.0  # no LPIPS: see above
  config.loss.mask_weight = 0.1

  optimizer = config.optimizer
  optimizer.learning_rate = 2e-3
  optimizer.warmup_steps = config.get_ref('num_train_steps') // 30  # follows num_train_steps: 66 of 2000 steps
  optimizer.muon = True  # 21.9 dB after 270 s on one core; AdamW alone reaches 19.0 dB (docs/results/quickstart.md)

  config.mesh.data = -1
  config.mesh.fsdp = 1
  return config
