"""A checksum of arrays: stored with a checkpoint, compared when it is read."""

import jax
import jax.numpy as jnp


@jax.jit
def checksum(tree) -> jax.Array:
  """Returns the uint32 sum of the bits of all numbers in a tree. It does not depend on how arrays are sharded."""

  def words(x):
    return jax.lax.bitcast_convert_type(x, jnp.dtype(f'uint{8 * x.dtype.itemsize}'))

  return sum((jnp.sum(words(x), dtype=jnp.uint32) for x in jax.tree.leaves(tree)), jnp.uint32(0))
