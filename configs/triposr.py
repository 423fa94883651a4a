"""TripoSR: DINO ViT-B/16, no camera, 16 layers of width 1024, 3 planes of 64 x 64 x 40 [SPEC.md].

  python -m lrm_jax.train --config=configs/triposr.py --workdir=runs/triposr --config.data.path=DIR \
      --config.init_from=hf://stabilityai/TripoSR --config.loss.lpips_network=FILE

Fine-tunes the published weights (MIT); without --config.init_from it trains from scratch. Learning rate and steps are
for fine-tuning [ours]. Hardware: none of ours has trained it yet. To expect: 419,275,628 parameters.
What is not set here is as in configs/base.py.
"""

from ml_collections import ConfigDict

from lrm_jax.configs import base


def get_config() -> ConfigDict:
  config = base.get_config()
  config.num_train_steps = 20_000  # steps [ours]
  config.batch_size = 128  # objects a step [ours]

  model = config.model
  model.architecture = 'triposr'
  del model.encoder, model.encoder_interpolate_offset, model.plane_axes, model.color_padding
  del model.camera_width, model.density_scale, model.sinusoidal_positions
  model.triplane_channels = 40
  model.radius = 0.87  # half the side of the cube

  data = config.data
  data.input_background = 0.5  # grey
  data.fill = 0.85  # of the picture's side, by the object
  data.fov = 40.0  # degrees, of its turntables [M]
  data.foreground_bias = 0.5  # probability that a window is centred on the object [ours: "more often"]

  config.loss.mask_entropy_weight = 0.05
  config.optimizer.learning_rate = 4e-5  # a tenth of training's [ours]
  config.optimizer.warmup_steps = 1000  # steps [ours]
  return config
