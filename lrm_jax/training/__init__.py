"""Training: the losses, the optimizer, the train step, the training loop, and cost estimates."""

from lrm_jax import extras

extras.require('train', 'optax', 'imageio', 'tensorboardX', purpose='training')
