"""An LRM for 2 CPU cores and a few hours: finer planes and more objects than configs/quickstart.py.

  python -m lrm_jax.train --config=demo --workdir=runs/demo \
      --config.data.mixture.things.path=things/objaverse_views/1.1.0 \
      --config.data.mixture.furniture.path=furniture/objaverse_views/1.1.0

Hardware: any CPU with 2 cores and 4 GB. docs/results/demo.md has the commands that make the data, the three stages of
the training, the learning curve, the results, and what was tried. An epoch has each real object 8 times and each
procedural one once.
Values that are not set here are those of configs/quickstart.py. All values set here are our choice.
"""

from ml_collections import ConfigDict

from lrm_jax.configs import quickstart


def get_config() -> ConfigDict:
  config = quickstart.get_config()
  config.num_train_steps = 3000  # steps
  config.ema_decay = 0.999

  model = config.model
  # From random values, patches of 16 px learn much more slowly than those of 8 px of half the image. The training
  # therefore starts with image_size = 64 and patch_size = 8, and goes on with these (docs/results/demo.md).
  model.image_size = 128  # px
  model.patch_size = 16  # px: 8 x 8 patches and the class token
  model.decoder_depth = 6  # layers
  model.triplane_upsample = 8  # texels per token along the side: planes of 64 x 64
  model.num_samples = 32  # samples per ray
  # Normalised objects are within 0.845 of the origin. The same texels and samples resolve finer details in the smaller
  # cube.
  model.half_size = 0.85

  data = config.data
  data.times = 8.0  # Real objects are 37 % of an epoch.
  data.permute_colors = False
  data.resize_max = 96  # px
  data.mixture.things = ConfigDict(dict(path='', times=1.0, eval_split='test'))  # procedural objects
  data.mixture.furniture = ConfigDict(dict(path='', eval_objects=0))  # more real objects, of Sweet Home 3D

  config.loss.mask_weight = 0.2
  config.optimizer.warmup_steps = 130  # steps
  return config
