"""LRM for 2 CPU cores: it learns real objects in minutes, and the model that ships was trained by it.

  python -m lrm_jax.train --config=configs/quickstart.py --workdir=runs/quickstart

Hardware: any CPU with 2 cores and 2 GB. To expect: a quarter of an hour, 22.9 dB on held-out objects, where the best
that learns nothing has 18.4; docs/results/quickstart.md has the curve, and a longer one.
It trains without LPIPS: the VGG16 weights that LPIPS needs may not be shipped with this repository, and at windows
of 32 px on two cores the perceptual network would cost more than the model itself. So its renders are blurred where
a model trained with LPIPS would invent detail. All choices are ours, made for this size.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  config = ConfigDict()

  config.num_train_steps = 2000  # steps: more fits the training objects better, and unseen ones worse
  config.batch_size = 8  # objects a step
  config.gradient_accumulation = 1  # micro-batches a step
  config.seed = 0
  config.log_every = 10  # steps
  config.checkpoint_every = 250  # steps
  config.keep_every = 0  # only the last two
  config.eval_every = 500  # steps
  config.max_skipped_steps = 3  # in a row, whose loss or gradient is no number; then the run stops
  config.loss_spike = 0.0  # times the running mean of the loss, above which a step is skipped; 0: never
  config.init_from = ''
  config.encoder_weights = ''  # nothing is downloaded: the encoder starts at random

  config.model = model = ConfigDict()
  model.architecture = 'lrm'
  model.image_size = 64  # px
  model.patch_size = 8  # px: 8 x 8 patches and the class token
  model.encoder_width = 192
  model.encoder_depth = 4
  model.encoder_num_heads = 3
  model.encoder_table_size = 8  # patches along the side
  model.camera_width = 64
  model.decoder_width = 192
  model.decoder_depth = 4
  model.decoder_num_heads = 3
  model.triplane_resolution = 8  # 3 x 8 x 8 = 192 tokens
  model.triplane_upsample = 4  # texels a token along the side: planes of 32 x 32, at no cost in the transformer
  model.triplane_channels = 24
  model.nerf_width = 32
  model.nerf_depth = 3
  model.num_samples = 24  # a ray
  model.rays_per_chunk = 256
  model.density_scale = 10.0  # a fresh model is fog that hides nothing, yet can turn solid in a few steps
  model.sinusoidal_positions = True  # tables that know where things are from the first step
  model.remat = 'full'  # faster than not on a CPU: the backward pass is bound by memory
  model.dtype = 'float32'

  config.data = data = ConfigDict()
  data.path = 'data/embedded/object_views/1.0.0'
  data.times = 1.0  # that each of its objects is seen in an epoch
  data.train_split = 'train'
  data.eval_split = 'test'
  data.eval_objects = 16  # during training; `evaluate` takes all
  data.eval_size = 64  # px
  data.num_side_views = 1
  data.window = 32  # px
  data.resize_min = 32  # px: the whole view ...
  data.resize_max = 64  # px: ... down to a quarter of it
  data.foreground_bias = 0.5
  data.background = (1.0,)
  data.input_background = 1.0
  data.normalise_cameras = True
  data.keep_distance = False
  data.mirror = True
  data.permute_colors = True
  data.frontal_input_probability = 0.5
  data.num_workers = 0  # the main process reads: decoding 128 px costs little
  data.max_broken_share = 0.01  # of the records
  data.fov = 50.0  # degrees, of the rendered views: what reconstruct assumes of a picture
  data.fill = 0.58  # of the picture's side, by the object: the median over the frontal views

  config.loss = loss = ConfigDict()
  loss.lpips_weight = 0.0  # see above
  loss.lpips_weights = ''
  loss.mask_weight = 0.1
  loss.mask_entropy_weight = 0.0
  loss.total_variation_weight = 0.0

  config.optimizer = optimizer = ConfigDict()
  optimizer.learning_rate = 2e-3
  optimizer.beta1 = 0.9
  optimizer.beta2 = 0.95
  optimizer.weight_decay = 0.05
  optimizer.warmup_steps = config.get_ref('num_train_steps') // 30  # follows it: 66 of 2000
  optimizer.clip_norm = 1.0
  optimizer.muon = True  # in 270 s on one core 21.9 dB, AdamW alone 19.0 (docs/results/quickstart.md)

  config.mesh = mesh = ConfigDict()
  mesh.data = -1
  mesh.fsdp = 1
  return config
