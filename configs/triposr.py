"""TripoSR: DINO ViT-B/16, no camera input, 16 layers of width 1024, 3 planes of 64 x 64 x 40.

  python -m lrm_jax.train --config=triposr --workdir=runs/triposr --config.data.path=DIR \
      --config.init_from=hf://stabilityai/TripoSR --config.loss.lpips_network=FILE

Fine-tunes the published weights (MIT licence); without --config.init_from it trains from scratch. The learning rate and
the number of steps are for fine-tuning [ours].
Hardware: we have not trained it yet. Expected: 419,275,628 parameters.
Values that are not set here are those of configs/base.py. Source: TripoSR's code and configuration, unless tagged
otherwise; base.py explains the tags.
"""

from ml_collections import ConfigDict

from lrm_jax.configs import base


def get_config() -> ConfigDict:
  config = base.get_config()
  config.num_train_steps = 20_000  # steps [ours]
  config.batch_size = 128  # objects per step [ours]

  model = config.model
  model.architecture = 'triposr'
  del model.encoder, model.encoder_interpolate_offset, model.plane_axes, model.color_padding
  del model.camera_width, model.density_scale, model.half_size, model.num_input_views
  del model.sinusoidal_positions
  model.triplane_channels = 40
  model.radius = 0.87  # world units, half the side of the cube

  data = config.data
  data.input_background = 0.5  # grey level
  data.fill = 0.85  # fraction of the image side that the object takes
  data.fov = 40.0  # degrees, that of TripoSR's turntables [M]
  data.foreground_bias = 0.5  # probability that a window is centred on the object [ours; the source: "more often"]

  config.loss.mask_entropy_weight = 0.05
  config.optimizer.learning_rate = 4e-5  # a tenth of the rate for training from scratch [ours]
  config.optimizer.warmup_steps = 1000  # steps [ours]
  return config
