"""The quickstart, from one image to 3D in ten minutes on two CPU cores; the command is `python -m lrm_jax.quickstart`.

It reconstructs held-out objects of the embedded dataset with the pretrained model, trains a smaller one from
scratch for some minutes, and writes a page with the results of both.
"""

from lrm_jax import extras

extras.require('train', 'grain', 'optax', 'matplotlib', purpose='the quickstart')
