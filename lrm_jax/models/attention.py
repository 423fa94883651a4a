"""Attention, softmax(q k^T / sqrt(d)) v, with the implementation chosen for the backend.

All modules call `attend`; no other module chooses an implementation.

Legend: B batch, N queries, M keys, H heads, d head width.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lrm_jax.distributed import backend, sharding

# Scores per block of queries on a CPU: small enough for its caches, large enough for efficient matrix products.
_CPU_SCORES = 2**21
_TILE = 128  # The TPU kernel needs sequence lengths that are multiples of this.
_SPLASH_SCORES = 2**18  # With fewer scores, XLA's own attention is as fast as the kernel.


def attend(
  q: Float[Array, 'B N H d'], k: Float[Array, 'B M H d'], v: Float[Array, 'B M H d']
) -> Float[Array, 'B N H d']:
  """Returns the attention of each query to all keys, in the dtype of `q`. The softmax is computed in float32."""
  form = backend.current().attention
  if form == 'cudnn' and q.dtype in (jnp.bfloat16, jnp.float16):
    return _cudnn(q, k, v)
  if form == 'splash' and _divides_evenly(len(q)) and q.shape[1] * k.shape[1] >= _SPLASH_SCORES:
    return _per_device(_splash)(q, k, v)
  if form == 'blocks':
    blocks = _per_device(_blocks) if _divides_evenly(len(q)) else _blocks
    return blocks(q, k, v)
  return jax.nn.dot_product_attention(q, k, v)


def _cudnn(q, k, v):
  """Runs cuDNN's fused attention. It needs even lengths: pad to a multiple of 8 and pass the true lengths."""
  queries, keys = q.shape[1], k.shape[1]

  def pad(x):
    return jnp.pad(x, ((0, 0), (0, -x.shape[1] % 8), (0, 0), (0, 0)))

  lengths = {}
  if queries % 8 or keys % 8:

    def full(n):
      return jnp.full((q.shape[0],), n, jnp.int32)

    lengths = dict(query_seq_lengths=full(queries), key_value_seq_lengths=full(keys))
  out = jax.nn.dot_product_attention(pad(q), pad(k), pad(v), implementation='cudnn', **lengths)
  return out[:, :queries]


def _splash(q, k, v, interpret=False):
  """Runs JAX's splash attention kernel for TPUs, which does not store the scores in memory.

  Sequences are padded to multiples of the tile. Padded keys get another segment id, so that no query attends to them.
  """
  # Takes 0.1 s to import, and only TPUs need it.
  from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
  from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as splash_mask

  queries, keys = q.shape[1], k.shape[1]

  def heads_first(x):
    return jnp.pad(x, ((0, 0), (0, -x.shape[1] % _TILE), (0, 0), (0, 0))).swapaxes(1, 2)

  scaled, k, v = heads_first(q * q.shape[-1] ** -0.5), heads_first(k), heads_first(v)
  rows, columns = scaled.shape[2], k.shape[2]
  block_q, block_kv = (max(size for size in range(_TILE, 1025, _TILE) if n % size == 0) for n in (rows, columns))
  kernel = splash.make_splash_mha(
    splash_mask.MultiHeadMask([splash_mask.FullMask((rows, columns))] * q.shape[2]),
    head_shards=1,
    q_seq_shards=1,
    interpret=interpret,
    block_sizes=splash.BlockSizes(
      block_q=block_q,
      block_kv=block_kv,
      block_q_dkv=block_q,
      block_kv_dkv=block_kv,
      block_q_dq=block_q,
      block_kv_dq=block_kv,
    ),
  )
  segments = None
  if columns > keys:
    segments = splash.SegmentIds(q=jnp.zeros(rows, jnp.int32), kv=(jnp.arange(columns) >= keys).astype(jnp.int32))
  out = jax.vmap(lambda q, k, v: kernel(q, k, v, segment_ids=segments))(scaled, k, v)
  return out.swapaxes(1, 2)[:, :queries]


def _divides_evenly(batch: int) -> bool:
  """Returns whether a batch can be divided evenly over the devices of the mesh."""
  return batch % max(1, jax.sharding.get_abstract_mesh().size) == 0


def _per_device(attention):
  """Wraps an implementation in `shard_map`, so that each device runs it on its own objects.

  XLA cannot partition a custom kernel, and for a loop over objects it would gather all objects on every device.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.size <= 1:
    return attention
  return jax.shard_map(attention, in_specs=sharding.BATCH, out_specs=sharding.BATCH, check_vma=False)


def _blocks(q, k, v):
  """Runs plain attention in blocks of queries if the scores of all queries do not fit into the CPU's caches.

  XLA's `dot_product_attention` is four times slower on a CPU with 3072 x 3072 tokens (2 cores, 2026-11-23).
  """
  batch, queries, heads, _ = q.shape
  rows = max(1, _CPU_SCORES // (heads * k.shape[1]))
  block = next(size for size in range(min(rows, queries), 0, -1) if queries % size == 0)
  all_fit = queries * batch <= rows
  too_small = 4 * block < min(rows, queries)  # For example, if the number of queries is prime.
  if all_fit or too_small:
    return _plain(q, k, v)
  q = q.reshape(batch, queries // block, block, heads, -1).swapaxes(0, 1)
  k, v = k[:, None], v[:, None]
  # Loops over blocks of queries and, inside, over objects. Scores are recomputed in the backward pass.
  attend_object = jax.checkpoint(lambda q, k, v: _plain(q[None], k, v)[0])
  out = jax.lax.map(lambda blocks: jax.lax.map(lambda inputs: attend_object(*inputs), (blocks, k, v)), q)
  return out.swapaxes(0, 1).reshape(batch, queries, heads, -1)


def _plain(q, k, v):
  """Computes attention by its definition, with all scores in memory."""
  # With heads before tokens, these are plain batched matrix products, which are twice as fast.
  q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
  scores = jnp.einsum('bhnd,bhmd->bhnm', q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
  return jnp.einsum('bhnm,bhmd->bhnd', jax.nn.softmax(scores, axis=-1).astype(q.dtype), v).swapaxes(1, 2)
