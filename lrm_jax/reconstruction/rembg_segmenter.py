"""The networks of the package rembg as segmenters. rembg downloads the weights on first use, and keeps them.

Models of rembg that send the image to another machine are refused. Legend: H W image.
"""

import numpy as np
from PIL import Image

from lrm_jax import extras
from lrm_jax.errors import InputError, one_line
from lrm_jax.reconstruction.segmentation import Segmentation

# IS-Net, Apache-2.0, 170 MB. The weights of rembg's own default, bria-rmbg, may not be used commercially.
DEFAULT = 'isnet-general-use'
_OTHER = ('sam', 'u2net_cloth_seg')  # They need clicks, or return several masks of clothes.


class RembgSegmenter:
  """A segmenter (segmenters.py) of rembg: `model` is one of its names, such as 'u2net' or 'birefnet-general'.

  Raises InputError if the model is unknown or cannot be loaded, such as without network, and ImportError (extras.py)
  if rembg is not installed.
  """

  def __init__(self, model: str | None = None):
    extras.require('rembg', 'rembg', 'onnxruntime', purpose='--segmenter=rembg')
    import rembg
    from rembg.sessions import sessions

    model = model or DEFAULT
    known = [
      name for name, kind in sessions.items() if kind.is_local() and not name.endswith('custom') and name not in _OTHER
    ]
    if model not in known:
      raise InputError(
        f'--segmenter=rembg:{model} is not a model of rembg that runs on this machine: use {", ".join(known)}'
      )
    try:
      self._session = rembg.new_session(model)
    except Exception as error:  # Of the network, of the file system, or of a damaged file.
      raise InputError(
        f'--segmenter=rembg:{model}: rembg could not load its model ({one_line(error)[:120]}): connect to the network, '
        f'or put {model}.onnx into {sessions[model].model_dir()}, or use --segmenter=FILE.onnx'
      ) from error
    self._remove = rembg.remove
    self.name = f'rembg ({model})'

  def __call__(self, rgb: np.ndarray) -> Segmentation:
    mask = self._remove(Image.fromarray(rgb), session=self._session, only_mask=True)
    return Segmentation(np.asarray(mask, np.float32) / 255)
