"""Tells the image tokens of several input views apart by their cameras.

The planes are in the frame of the first input view, whose camera modulates the decoder. Tokens of view n get a tag,
T(camera n) - T(camera 0), where T is a small network. So the first view is never changed, and a model with one input
view is the same with and without tags. T starts at zero.
Source: ours; the paper (section 5) leaves several views to future work.
Legend: B batch, N input views, M tokens per view, E width of the tokens.
"""

from einops import rearrange
from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lrm_jax.models.decoder import camera_feature, camera_network


class ViewTags(nnx.Module):
  """Adds tags to the tokens of all views, and puts the views one after another."""

  def __init__(self, width: int, camera_width: int, pose_rows: int, *, rngs: nnx.Rngs):
    self.pose_rows = pose_rows
    self.embedding = camera_network(pose_rows, camera_width, width, rngs=rngs)
    self.embedding.contract.kernel[...] = jnp.zeros((camera_width, width))

  def __call__(
    self, tokens: Float[Array, 'B N M E'], camera_to_world: Float[Array, 'B N 4 4'], intrinsics: Float[Array, 'B N 4']
  ) -> Float[Array, 'B NM E']:
    """Returns the tagged tokens of all views, given cameras in the frame of the first view."""
    feature = jax.vmap(camera_feature, in_axes=(0, 0, None))(camera_to_world, intrinsics, self.pose_rows)
    tags = self.embedding(feature)
    tags = (tags - tags[:, :1]).astype(tokens.dtype)
    return rearrange(tokens + tags[:, :, None], 'b n m e -> b (n m) e')
