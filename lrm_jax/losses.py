"""What a rendered view is measured by: squared error, perceptual distance, and the object's mask.

Source: LRM (arXiv 2311.04400), section 3.4: mean over views of MSE + lambda * LPIPS; the mask term is ours.
Legend: B batch, V views, h w window.
"""

from collections.abc import Callable

from einops import rearrange
import jax.numpy as jnp
from jaxtyping import Array, Float

from lrm_jax.volume import Pixels


def reconstruction(
    pixels: Pixels, target_color: Float[Array, 'B V h w 3'], target_opacity: Float[Array, 'B V h w'], *,
    lpips_weight: float = 0.0, mask_weight: float = 0.0, lpips: Callable | None = None,
) -> tuple[Float[Array, ''], dict[str, Float[Array, '']]]:
  """Returns (loss, its parts): MSE + lpips_weight * LPIPS + mask_weight * MSE of the opacity, over all views.

  `lpips` maps two stacks of pictures [N, h, w, 3] in 0..1 to distances [N]; it must be there if its weight is.
  """
  mse = jnp.mean(jnp.square(pixels.color - target_color))
  parts = {'mse': mse}
  loss = mse
  if lpips_weight > 0:
    stack = lambda x: rearrange(x, 'b v h w c -> (b v) h w c')
    parts['lpips'] = jnp.mean(lpips(stack(pixels.color), stack(target_color)))
    loss += lpips_weight * parts['lpips']
  if mask_weight > 0:
    parts['mask'] = jnp.mean(jnp.square(pixels.opacity - target_opacity))
    loss += mask_weight * parts['mask']
  return loss, parts
