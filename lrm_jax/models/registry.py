"""Builds models from the section `model` of a configuration, and converts between models and parameters.

Training and checkpoints use parameters as nested dicts of arrays, whereas models are Flax modules.
"""

from flax import nnx

from lrm_jax.errors import InputError
from lrm_jax.models import lora
from lrm_jax.models.lrm import LRM
from lrm_jax.models.openlrm import OpenLRM
from lrm_jax.models.triplane_model import TriplaneModel
from lrm_jax.models.triposr import TripoSR

ARCHITECTURES = {'lrm': LRM, 'openlrm': OpenLRM, 'triposr': TripoSR}


def build_model(model_kwargs: dict, rngs: nnx.Rngs) -> TriplaneModel:
  """Returns a newly initialised model, given `model_kwargs`, the section `model` of a configuration.

  Raises InputError if the architecture is unknown, a value is missing or unexpected, or sizes do not fit together.
  """
  low_rank, sizes = lora.settings({'architecture': 'lrm'} | model_kwargs)
  name = sizes.pop('architecture')
  if name not in ARCHITECTURES:
    raise InputError(f'config.model.architecture = {name!r} is unknown: use one of {", ".join(ARCHITECTURES)}')
  try:
    model = ARCHITECTURES[name](**sizes, rngs=rngs)
  except TypeError as error:  # A missing or an unexpected argument.
    raise InputError(f'config.model does not fit the architecture {name!r}: {error}') from error
  lora.add(model, low_rank, rngs)  # Last, so that the other parameters are those of the model without LoRA.
  return model


def abstract_model(model_kwargs: dict) -> TriplaneModel:
  """Returns the model with shapes in place of arrays, without computing or allocating anything."""
  return nnx.eval_shape(lambda: build_model(model_kwargs, nnx.Rngs(0)))


def parameters(model: TriplaneModel) -> dict:
  """Returns the parameters of a model as a nested dict of arrays (of shapes if the model is abstract)."""
  return nnx.to_pure_dict(nnx.state(model, nnx.Param))


def with_parameters(model: TriplaneModel, params: dict) -> TriplaneModel:
  """Returns `model`, which may be abstract, with these parameters."""
  graphdef, state = nnx.split(model, nnx.Param)
  nnx.replace_by_pure_dict(state, params)
  return nnx.merge(graphdef, state)
