"""An LRM for 2 CPU cores and about 20 hours, in pieces that resume. It has not been trained yet (docs/results/demo.md).

  python -m lrm_jax.train --config=demo --workdir=runs/demo \
      --config.data.mixture.things.path=things/objaverse_views/1.1.0

Hardware: any CPU with 2 cores and 4 GB. Expected: unknown; docs/results/demo.md has the commands that make the data,
and what is known. An epoch has each real object of the embedded dataset 4 times, and each procedural one once.
Values that are not set here are those of configs/quickstart.py. All values set here are our choice.
"""

from ml_collections import ConfigDict

from lrm_jax.configs import quickstart


def get_config() -> ConfigDict:
  config = quickstart.get_config()
  config.num_train_steps = 4500  # steps
  config.checkpoint_every = 250  # steps
  config.eval_every = 500  # steps
  config.ema_decay = 0.999

  model = config.model
  model.image_size = 128  # px
  model.patch_size = 16  # px: 8 x 8 patches and the class token
  model.encoder_width = 256  # channels
  model.encoder_num_heads = 4
  model.decoder_width = 256  # channels
  model.decoder_depth = 6  # layers
  model.decoder_num_heads = 4
  model.triplane_upsample = 8  # texels per token along the side: planes of 64 x 64
  model.nerf_depth = 4  # linear layers, including the output layer
  model.num_samples = 32  # samples per ray
  # Objects are within 0.634 of the origin if the input camera keeps its distance. The planes cover little more than
  # that: the same texels and samples then resolve details 1.5 times smaller than in the cube of half size 1.
  model.half_size = 0.65
  model.density_scale = 15.0

  data = config.data
  data.keep_distance = True
  data.times = 8.0  # Real objects are 40 % of an epoch.
  data.permute_colors = False
  data.num_side_views = 2
  data.resize_min = 32  # px
  data.resize_max = 96  # px
  data.mixture.things = ConfigDict(dict(path='', times=1.0, eval_split='test'))  # procedural objects
  data.mixture.furniture = ConfigDict(dict(path='', eval_objects=0))  # more real objects, of Sweet Home 3D

  config.loss.mask_weight = 0.2
  config.optimizer.warmup_steps = 150  # steps
  return config
