"""The Large Reconstruction Model in JAX: one picture of an object -> a triplane NeRF -> views, depth, a mesh."""

__version__ = '0.1.0'
__all__ = ['Reconstructor', 'from_pretrained']


def __getattr__(name):
  # Data workers and Blender import this package for its cameras alone: JAX is imported when it is asked for.
  if name in __all__:
    from lrm_jax import reconstructor

    return getattr(reconstructor, name)
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
