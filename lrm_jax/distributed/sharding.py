"""Sharding: a mesh of ('data', 'fsdp') devices and one rule over array shapes.

The objects of a batch are sharded over all devices. A large parameter (and its optimizer state) is sharded along its
largest divisible dimension over 'fsdp'. Models carry no sharding annotations except `shard_by_batch` on activations.
"""

from collections.abc import Sequence
import math

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec
import numpy as np

from lrm_jax.errors import InputError

BATCH = PartitionSpec(('data', 'fsdp'))
# Elements; smaller arrays are replicated: a collective costs more than their memory. So are the NeRF's kernels, which
# would otherwise be gathered for each chunk of rays, and the norms and biases of stacked layers.
_SMALLEST_SHARDED = 2**18


def make_mesh(data: int = -1, fsdp: int = 1, devices: Sequence[jax.Device] | None = None) -> jax.sharding.Mesh:
  """Returns the (data, fsdp) mesh of `devices` (default: all devices). An axis of -1 takes the remaining devices.

  Raises InputError if the product of the axes is not the number of devices.
  """
  shape = mesh_shape(data, fsdp, jax.device_count() if devices is None else len(devices))
  return jax.make_mesh(shape, ('data', 'fsdp'), axis_types=(AxisType.Auto,) * 2, devices=devices)


def mesh_shape(data: int, fsdp: int, count: int) -> tuple[int, int]:
  """Returns (data, fsdp) for `count` devices; an axis of -1 takes the remaining ones. Raises like `make_mesh`."""
  if data == -1 and fsdp >= 1:
    data = count // fsdp
  elif fsdp == -1 and data >= 1:
    fsdp = count // data
  if data < 1 or fsdp < 1 or data * fsdp != count:
    raise InputError(f'config.mesh = {(data, fsdp)} does not match {count} devices: set one axis to -1')
  return data, fsdp


def shardings(mesh: jax.sharding.Mesh, tree):
  """Returns the tree of shardings for a tree of arrays or shapes."""

  def rule(leaf):
    axes = [
      i
      for i, length in enumerate(leaf.shape)
      if math.prod(leaf.shape) >= _SMALLEST_SHARDED and length % mesh.shape['fsdp'] == 0
    ]
    largest = max(axes, key=lambda i: leaf.shape[i], default=None)
    return NamedSharding(mesh, PartitionSpec(*('fsdp' if i == largest else None for i in range(len(leaf.shape)))))

  return jax.tree.map(rule, tree)


def batch_sharding(mesh: jax.sharding.Mesh) -> NamedSharding:
  """Returns the sharding of arrays whose first axis is the batch (objects)."""
  return NamedSharding(mesh, BATCH)


def batch_rows(mesh: jax.sharding.Mesh, batch_size: int) -> list[int]:
  """Returns the sorted batch indices of the objects that this process's devices hold."""
  parts = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
  return sorted({row for index in parts if index is not None for row in range(*index[0].indices(batch_size))})


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
  """Returns the sharding of arrays that are replicated on every device."""
  return NamedSharding(mesh, PartitionSpec())


def place(array: np.ndarray, where: NamedSharding) -> jax.Array:
  """Returns a global array with this sharding; every process must pass the whole `array`."""
  return jax.make_array_from_callback(array.shape, where, lambda index: array[index])


def place_replicated(mesh: jax.sharding.Mesh, tree):
  """Returns the tree with its arrays replicated on all devices; shapes (ShapeDtypeStruct) are left as they are."""

  def put(x):
    return x if isinstance(x, jax.ShapeDtypeStruct) else place(np.asarray(x), replicated(mesh))

  return jax.tree.map(put, tree)


def bytes_per_device(tree, shardings) -> int:
  """Returns the bytes that a tree of arrays or shapes takes on each device."""
  return sum(
    math.prod(where.shard_shape(x.shape)) * x.dtype.itemsize
    for x, where in zip(jax.tree.leaves(tree), jax.tree.leaves(shardings), strict=True)
  )


def shard_by_batch(x):
  """Constrains activations to stay sharded by batch if a mesh is set; otherwise XLA may gather them."""
  if jax.sharding.get_abstract_mesh().empty:
    return x
  return jax.lax.with_sharding_constraint(x, BATCH)


def replicate(tree):
  """Constrains a tree of arrays to be replicated if a mesh is set, so that every process can read them."""
  if jax.sharding.get_abstract_mesh().empty:
    return tree
  return jax.lax.with_sharding_constraint(tree, PartitionSpec())
