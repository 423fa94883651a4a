"""softmax(q k^T / sqrt(d)) v, by the implementation that the backend runs best: the one place that chooses.

Legend: B batch, N queries, M keys, H heads, d head width.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lrm_jax.distributed import backend, sharding

# Scores of one block of queries on the CPU: small enough for its caches, large enough for its matrix units.
_CPU_SCORES = 2**21
_TILE = 128  # Lengths that a TPU's kernel takes are multiples.
_SPLASH_SCORES = 2**18  # Below, XLA's own is as good.


def attend(
  q: Float[Array, 'B N H d'], k: Float[Array, 'B M H d'], v: Float[Array, 'B M H d']
) -> Float[Array, 'B N H d']:
  """Returns the attention of each query to all keys, in the dtype of `q`; softmax in float32."""
  form = backend.current().attention
  if form == 'cudnn' and q.dtype in (jnp.bfloat16, jnp.float16):
    return _cudnn(q, k, v)
  if form == 'splash' and _spread(len(q)) and q.shape[1] * k.shape[1] >= _SPLASH_SCORES:
    return _over_devices(_splash)(q, k, v)
  if form == 'blocks':
    return (_over_devices(_blocks) if _spread(len(q)) else _blocks)(q, k, v)
  return jax.nn.dot_product_attention(q, k, v)


def _cudnn(q, k, v):
  """CuDNN's fused attention wants lengths that are even: pad to a multiple of 8 and pass the true ones."""
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
  """JAX's kernel for TPUs: no scores in memory. Lengths are filled up to its tiles; keys that fill up are of another segment."""
  # A tenth of a second to import, and only TPUs need it.
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


def _spread(batch: int) -> bool:
  """Whether each device of the mesh has as many objects as any other."""
  return batch % max(1, jax.sharding.get_abstract_mesh().size) == 0


def _over_devices(attention):
  """Each device with its own objects: a kernel is nothing that XLA could cut, and a loop over objects would gather them."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.size <= 1:
    return attention
  return jax.shard_map(attention, in_specs=sharding.BATCH, out_specs=sharding.BATCH, check_vma=False)


def _blocks(q, k, v):
  """Plain attention, in blocks of queries where all scores at once would not stay in the caches.

  XLA's CPU `dot_product_attention` is four times slower at 3072 x 3072 tokens (2 cores, 2026-11-23).
  """
  batch, queries, heads, _ = q.shape
  rows = max(1, _CPU_SCORES // (heads * k.shape[1]))
  block = next(size for size in range(min(rows, queries), 0, -1) if queries % size == 0)
  if queries * batch <= rows or 4 * block < min(
    rows, queries
  ):  # All fits, or the blocks would be tiny: a prime length.
    return _plain(q, k, v)
  q = q.reshape(batch, queries // block, block, heads, -1).swapaxes(0, 1)
  k, v = k[:, None], v[:, None]
  # One object and one block of its queries at a time.
  one = jax.checkpoint(lambda q, k, v: _plain(q[None], k, v)[0])
  out = jax.lax.map(lambda blocks: jax.lax.map(lambda o: one(*o), (blocks, k, v)), q)
  return out.swapaxes(0, 1).reshape(batch, queries, heads, -1)


def _plain(q, k, v):
  q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))  # Heads before tokens: plain matrix products, twice as fast.
  scores = jnp.einsum('bhnd,bhmd->bhnm', q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
  return jnp.einsum('bhnm,bhmd->bhnd', jax.nn.softmax(scores, axis=-1).astype(q.dtype), v).swapaxes(1, 2)
