"""The Large Reconstruction Model in JAX: one picture of an object -> a triplane NeRF -> views, depth, a mesh."""

import os

# NumPy resizes pictures while XLA computes. Its BLAS would wake a thread a core for each of these small products and
# wait for all of them: beside a training on 2 cores, reading was twenty times slower so. It reads this once, when
# NumPy is imported; what the user has set stays.
os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')
os.environ.setdefault('OPENCV_FOR_THREADS_NUM', '1')  # The same holds for OpenCV.

__version__ = '0.1.0'
__all__ = ['Reconstructor', 'from_pretrained']


def __getattr__(name):
  # Data workers and Blender import this package for its cameras alone: JAX is imported when it is asked for.
  if name in __all__:
    from lrm_jax.reconstruction import reconstructor

    return getattr(reconstructor, name)
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
