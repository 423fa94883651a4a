"""Names for types that several layers share."""

import jax

Key = jax.Array  # A typed random key, jax.random.key(seed).
