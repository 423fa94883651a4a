"""Sharding: a mesh of ('dcn', 'data', 'fsdp') devices and one rule over array shapes.

The objects of a batch are sharded over all devices. A large parameter (and its optimizer state) is sharded along its
largest divisible dimension over 'fsdp'. Models carry no sharding annotations except `shard_by_batch` on activations.
'dcn' are groups of devices that only a data-centre network connects, such as the slices of a multi-slice TPU.
Parameters are sharded within a group, and gradients are summed over all groups.
"""

from collections.abc import Sequence
import math

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec
import numpy as np

from lrm_jax.errors import InputError

_AXES = ('dcn', 'data', 'fsdp')
BATCH = PartitionSpec(_AXES)
# Elements; smaller arrays are replicated: a collective costs more than their memory. So are the NeRF's kernels, which
# would otherwise be gathered for each chunk of rays, and the norms and biases of stacked layers.
_SMALLEST_SHARDED = 2**18


def make_mesh(
  data: int = -1, fsdp: int = 1, dcn: int = 1, devices: Sequence[jax.Device] | None = None
) -> jax.sharding.Mesh:
  """Returns the mesh of `devices` (default: all devices). An axis `data` or `fsdp` of -1 takes the remaining devices.

  Raises InputError if the product of the axes is not the number of devices, or if `dcn` is not their number of slices.
  """
  devices = jax.devices() if devices is None else devices
  shape, types = mesh_shape(data, fsdp, len(devices), dcn), (AxisType.Auto,) * 3
  slices = len({getattr(device, 'slice_index', 0) for device in devices})
  if slices != dcn and devices[0].platform == 'tpu':
    raise InputError(f'config.mesh.dcn = {dcn}, but the devices are {slices} slices of TPUs: set it to {slices}')
  if dcn == 1:
    return jax.make_mesh(shape, _AXES, axis_types=types, devices=devices)
  return jax.sharding.Mesh(arranged(shape, devices), _AXES, axis_types=types)


def arranged(shape: tuple[int, int, int], devices: Sequence[jax.Device]) -> np.ndarray:
  """Returns the devices as a grid (dcn, data, fsdp), whose groups along `dcn` are slices or processes if they match."""
  dcn, *rest = shape
  for attribute in ('slice_index', 'process_index'):
    if len({getattr(device, attribute, 0) for device in devices}) == dcn:
      return mesh_utils.create_hybrid_device_mesh(
        (1, *rest), (dcn, 1, 1), devices, process_is_granule=attribute == 'process_index'
      )
  # Devices come in the order of their processes, so that a group is some of the hosts, or a part of one.
  return np.array(devices, object).reshape(shape)


def mesh_shape(data: int, fsdp: int, count: int, dcn: int = 1) -> tuple[int, int, int]:
  """Returns (dcn, data, fsdp) for `count` devices; -1 for `data` or `fsdp` takes the remaining ones.

  Raises InputError if they do not match.
  """
  given = (data, fsdp) if dcn == 1 else (dcn, data, fsdp)
  if dcn < 1:
    raise InputError(f'config.mesh.dcn = {dcn} must be at least 1: the number of slices')
  if data == -1 and fsdp >= 1:
    data = count // (dcn * fsdp)
  elif fsdp == -1 and data >= 1:
    fsdp = count // (dcn * data)
  if data < 1 or fsdp < 1 or dcn * data * fsdp != count:
    raise InputError(f'config.mesh = {given} does not match {count} devices: set one axis to -1')
  return dcn, data, fsdp


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
