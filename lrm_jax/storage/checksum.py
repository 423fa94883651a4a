"""The checksum that is stored with a checkpoint and verified when the checkpoint is read."""

import jax
import jax.numpy as jnp


@jax.jit
def checksum(tree) -> jax.Array:
  """Returns the uint32 sum of the bits of all numbers in a tree. It does not depend on how arrays are sharded."""

  def bits(x):
    return jax.lax.bitcast_convert_type(x, jnp.dtype(f'uint{8 * x.dtype.itemsize}'))

  return sum((jnp.sum(bits(x), dtype=jnp.uint32) for x in jax.tree.leaves(tree)), jnp.uint32(0))
