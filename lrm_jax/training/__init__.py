"""Training: the loss, the optimizer, the step, the loop around it, and what a run costs before it starts."""

from lrm_jax import extras

extras.require('train', 'optax', 'imageio', 'tensorboardX', purpose='training')
