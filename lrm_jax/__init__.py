"""The Large Reconstruction Model in JAX: one image of an object -> a triplane NeRF -> novel views, depth, a mesh."""

import os

# Multi-threaded BLAS makes small resizes 20 times slower while XLA runs (training on 2 cores): NumPy's BLAS would wake
# one thread per core for each small product and wait for all of them. NumPy reads this variable once, when it is
# imported. Values that the user has set are kept.
os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')
os.environ.setdefault('OPENCV_FOR_THREADS_NUM', '1')  # The same holds for OpenCV.

__version__ = '0.1.0'
__all__ = ['Reconstruction', 'Reconstructor', 'from_pretrained']


def __getattr__(name):
  # Data workers and Blender import this package only for its cameras, so JAX is imported on first use.
  if name in __all__:
    from lrm_jax.reconstruction import reconstructor

    return getattr(reconstructor, name)
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
