"""softmax(q k^T / sqrt(d)) v, by the implementation that the backend runs best: the one place that chooses.

Legend: B batch, N queries, M keys, H heads, d head width.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# Scores of one block of queries on the CPU: small enough for its caches, large enough for its matrix units.
_CPU_SCORES = 2**21


def attend(
    q: Float[Array, 'B N H d'], k: Float[Array, 'B M H d'], v: Float[Array, 'B M H d']
) -> Float[Array, 'B N H d']:
  """Returns the attention of each query to all keys, in the dtype of `q`; softmax in float32."""
  backend = jax.default_backend()
  if backend == 'gpu' and q.dtype in (jnp.bfloat16, jnp.float16) and _has_cudnn():
    return _cudnn(q, k, v)
  if backend == 'cpu':
    return _blocks(q, k, v)
  return jax.nn.dot_product_attention(q, k, v)


def _has_cudnn() -> bool:
  """NVIDIA, not ROCm, which JAX calls 'gpu' as well."""
  return 'cuda' in jax.devices()[0].client.platform_version.lower()


def _cudnn(q, k, v):
  """cuDNN's fused attention wants lengths that are even: pad to a multiple of 8 and pass the true ones."""
  queries, keys = q.shape[1], k.shape[1]
  pad = lambda x: jnp.pad(x, ((0, 0), (0, -x.shape[1] % 8), (0, 0), (0, 0)))
  lengths = lambda n: jnp.full((q.shape[0],), n, jnp.int32)
  out = jax.nn.dot_product_attention(
      pad(q), pad(k), pad(v), query_seq_lengths=lengths(queries), key_value_seq_lengths=lengths(keys),
      implementation='cudnn')
  return out[:, :queries]


def _blocks(q, k, v):
  """Plain attention, in blocks of queries where all scores at once would not stay in the caches.

  XLA's CPU `dot_product_attention` is four times slower at 3072 x 3072 tokens (2 cores, 2026-11-23).
  """
  batch, queries, heads, _ = q.shape
  rows = max(1, _CPU_SCORES // (heads * k.shape[1]))
  block = next(size for size in range(min(rows, queries), 0, -1) if queries % size == 0)
  if queries * batch <= rows or 4 * block < min(rows, queries):  # All fits, or the blocks would be tiny: a prime length.
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
