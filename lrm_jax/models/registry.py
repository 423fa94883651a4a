"""Models by name: built from the section `model` of a configuration, and taken apart into parameters.

Trainings and checkpoints hold parameters as nested dicts of arrays; models are Flax modules. This converts between them.
"""

from flax import nnx

from lrm_jax.models.lrm import LRM
from lrm_jax.models.openlrm import OpenLRM
from lrm_jax.models.triplane_model import TriplaneModel
from lrm_jax.models.triposr import TripoSR

ARCHITECTURES = {'lrm': LRM, 'openlrm': OpenLRM, 'triposr': TripoSR}


def build_model(model_kwargs: dict, rngs: nnx.Rngs) -> TriplaneModel:
  """Returns a fresh model of `model_kwargs`, the section `model` of a configuration; ValueError where it is of none."""
  sizes = {'architecture': 'lrm'} | model_kwargs
  name = sizes.pop('architecture')
  if name not in ARCHITECTURES:
    raise ValueError(f'config.model.architecture = {name!r} is unknown: one of {", ".join(ARCHITECTURES)}')
  try:
    return ARCHITECTURES[name](**sizes, rngs=rngs)
  except TypeError as error:  # Of a name that is missing, or one too many.
    raise ValueError(f'config.model does not describe a model of architecture {name!r}: {error}') from error


def abstract_model(model_kwargs: dict) -> TriplaneModel:
  """Returns the model with shapes in the place of arrays: nothing is computed or allocated."""
  return nnx.eval_shape(lambda: build_model(model_kwargs, nnx.Rngs(0)))


def parameters(model: TriplaneModel) -> dict:
  """Returns the parameters of a model as a nested dict of arrays (or of shapes)."""
  return nnx.to_pure_dict(nnx.state(model, nnx.Param))


def with_parameters(model: TriplaneModel, params: dict) -> TriplaneModel:
  """Returns `model`, abstract or not, with these parameters."""
  graphdef, state = nnx.split(model, nnx.Param)
  nnx.replace_by_pure_dict(state, params)
  return nnx.merge(graphdef, state)
