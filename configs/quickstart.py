"""A small LRM for 2 CPU cores: it learns real objects in minutes, and the model that ships was trained by it.

  python -m lrm_jax.train --config=quickstart --workdir=runs/quickstart

Hardware: any CPU with 2 cores and 2 GB. Expected: 15 minutes, 22.9 dB on held-out objects, where the best baseline that
learns nothing has 18.4 dB; docs/results/quickstart.md has the learning curve, and a longer run.
It trains without LPIPS: the VGG16 weights that LPIPS needs are not shipped with this repository, and at windows of 32 px on
two cores the perceptual network would cost more than the model itself. So its renders are blurred where a model trained
with LPIPS would invent detail. What is not set here is as in configs/base.py; all that is set here is our choice.
"""

from ml_collections import ConfigDict

from lrm_jax.configs import base


def get_config() -> ConfigDict:
  config = base.get_config()
  config.num_train_steps = 2000  # steps: more fits the training objects better, and unseen ones worse
  config.batch_size = 8  # objects a step
  config.rays_per_chunk = 256
  config.log_every = 10  # steps
  config.checkpoint_every = 250  # steps
  config.keep_every = 0  # only the last two
  config.eval_every = 500  # steps
  config.max_skipped_steps = 3
  config.loss_spike = 0.0

  model = config.model
  model.image_size = 64  # px
  model.patch_size = 8  # px: 8 x 8 patches and the class token
  model.encoder_width = 192
  model.encoder_depth = 4
  model.encoder_num_heads = 3
  model.encoder_table_size = 8  # patches along the side
  model.encoder_interpolate_offset = 0.0
  model.camera_width = 64
  model.decoder_width = 192
  model.decoder_depth = 4
  model.decoder_num_heads = 3
  model.triplane_resolution = 8  # 3 x 8 x 8 = 192 tokens
  model.triplane_upsample = 4  # texels a token along the side: planes of 32 x 32, at no cost in the transformer
  model.triplane_channels = 24
  model.plane_axes = ('xy', 'xz', 'yz')
  model.nerf_width = 32
  model.nerf_depth = 3
  model.num_samples = 24  # a ray
  model.density_scale = 10.0  # a fresh model is fog that hides nothing, yet can turn solid in a few steps
  model.color_padding = 0.0
  model.sinusoidal_positions = True  # tables that know positions from the first step
  model.remat = 'full'  # faster than 'none' on a CPU: the backward pass is bound by memory
  model.dtype = 'float32'

  data = config.data
  data.path = 'embedded'
  data.eval_objects = 16  # during training; `evaluate` uses all
  data.eval_size = 64  # px
  data.num_side_views = 1
  data.window = 32  # px
  data.resize_min = 32  # px: the whole view ...
  data.resize_max = 64  # px: ... down to a quarter of it
  data.foreground_bias = 0.5
  data.mirror = True
  data.permute_colors = True
  data.frontal_input_probability = 0.5
  data.num_workers = 0  # the main process reads: decoding 128 px costs little

  config.loss.lpips_weight = 0.0  # see above
  config.loss.mask_weight = 0.1

  optimizer = config.optimizer
  optimizer.learning_rate = 2e-3
  optimizer.warmup_steps = config.get_ref('num_train_steps') // 30  # follows it: 66 of 2000
  optimizer.muon = True  # in 270 s on one core 21.9 dB, AdamW alone 19.0 (docs/results/quickstart.md)

  config.mesh.data = -1
  config.mesh.fsdp = 1
  return config
