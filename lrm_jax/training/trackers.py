"""Trackers: where a training's metrics go besides DIR/metrics.jsonl: TensorBoard, Weights & Biases, MLflow.

config.trackers names them. TensorBoard writes to DIR/tensorboard; the others are services, found through their own
environment variables (WANDB_PROJECT, WANDB_MODE, MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME, ...). Each receives the
configuration, the git revision and the versions. A service that fails is left out for the rest of the run, with a
warning: metrics.jsonl has everything.
"""

from collections.abc import Callable, Mapping
import hashlib
import importlib
import os
import socket
import sys
import time
from typing import Any, Protocol

from etils import epath
from flax import traverse_util
import imageio.v3 as imageio
import numpy as np
from tensorboardX import RecordWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboardX.proto.tensor_pb2 import TensorProto
from tensorboardX.proto.tensor_shape_pb2 import TensorShapeProto

from lrm_jax import extras
from lrm_jax.errors import InputError, one_line
from lrm_jax.storage import paths


class Writer(Protocol):
  """Receives the metrics of a run. `name` is the key of an image or metric; steps may be repeated after a restart."""

  def start(self, step: int, config: Mapping, about: Mapping) -> None:
    """Receives the configuration, and versions and revision ({name: value}), when a run starts or resumes at `step`."""

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Writes the metrics of a step."""

  def write_image(self, step: int, name: str, image: np.ndarray) -> None:
    """Writes an image [H, W, 3] of bytes."""

  def close(self) -> None:
    """Writes what is buffered."""


def make(names: tuple[str, ...], workdir: epath.Path) -> list[Writer]:
  """Returns the trackers of config.trackers for a run directory.

  Raises InputError for an unknown name, and for one whose library is not installed, with the command that installs it.
  """
  check(names)
  return [TensorBoard(workdir / 'tensorboard') if name == 'tensorboard' else _Service(name, workdir) for name in names]


def check(names: tuple[str, ...]) -> None:
  """Raises InputError unless all trackers exist and their libraries are installed."""
  for name in names:
    if name not in ('tensorboard', *_SERVICES):
      raise InputError(f'config.trackers has {name!r}, but there are only tensorboard, {", ".join(_SERVICES)}')
    if name in _SERVICES and not extras.installed(name):
      raise InputError(
        f"config.trackers = {tuple(names)} needs the package {name}: pip install '.[{name}]', or leave {name!r} out"
      )


class TensorBoard:
  """Writes TensorBoard events to a directory, local or in cloud storage, in the calling thread.

  tensorboardX's SummaryWriter uses its own thread, which dies if the disk is full, and the process then hangs.
  """

  def __init__(self, directory: epath.Path):
    local = paths.is_local(directory)
    if local:
      directory.mkdir(parents=True, exist_ok=True)
    self._seconds = 0.0 if local else paths.SECONDS_BETWEEN_UPLOADS
    name = f'events.out.tfevents.{time.time():017.6f}.{socket.gethostname()}'
    self._records: Any = RecordWriter(os.fspath(directory / name))
    self._flushed = time.monotonic()
    self._add(Event(wall_time=time.time(), file_version='brain.Event:2'))

  def start(self, step: int, config: Mapping, about: Mapping) -> None:
    metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name='text'))
    for name, values in (('configuration', _flat(config)), ('about', _flat(about))):
      text = '\n'.join(f'    {key} = {value!r}' for key, value in values.items())  # Indented: a block of code.
      tensor = TensorProto(
        dtype='DT_STRING', string_val=[text.encode()], tensor_shape=TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
      )
      self._add_value(step, Summary.Value(tag=f'{name}/text_summary', metadata=metadata, tensor=tensor))

  def write(self, step: int, values: Mapping[str, float]) -> None:
    for name, value in values.items():
      self._add_value(step, Summary.Value(tag=name, simple_value=value))

  def write_image(self, step: int, name: str, image: np.ndarray) -> None:
    height, width = image.shape[:2]
    png = imageio.imwrite('<bytes>', image, extension='.png')
    encoded = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png)
    self._add_value(step, Summary.Value(tag=name, image=encoded))

  def close(self) -> None:
    if self._records is not None:
      self._records.flush()
      self._records.close()
      self._records = None

  def _add_value(self, step: int, value) -> None:
    self._add(Event(wall_time=time.time(), step=step, summary=Summary(value=[value])))

  def _add(self, event) -> None:
    self._records.write(event.SerializeToString())
    if time.monotonic() - self._flushed >= self._seconds:
      self._records.flush()
      self._flushed = time.monotonic()


class WeightsAndBiases:
  """Writes to Weights & Biases. A resumed training continues its run there; the step is the horizontal axis."""

  def __init__(self, workdir: epath.Path):
    self._wandb = importlib.import_module('wandb')
    self._workdir: epath.Path = workdir
    self._run: Any = None

  def start(self, step: int, config: Mapping, about: Mapping) -> None:
    identity = hashlib.sha256(os.fspath(self._workdir).encode()).hexdigest()[:16]
    local = os.fspath(self._workdir) if paths.is_local(self._workdir) else None
    self._run = self._wandb.init(
      project=os.environ.get('WANDB_PROJECT', 'lrm_jax'),
      id=identity,
      name=self._workdir.name,
      resume='allow',
      dir=local,
      config={**config, 'about': dict(about)},
    )
    self._run.define_metric('*', step_metric='step')

  def write(self, step: int, values: Mapping[str, float]) -> None:
    self._run.log({'step': step, **values})

  def write_image(self, step: int, name: str, image: np.ndarray) -> None:
    self._run.log({'step': step, f'images/{name}': self._wandb.Image(image)})

  def close(self) -> None:
    if self._run is not None:
      self._run.finish()
      self._run = None


class MLflow:
  """Writes to MLflow. A resumed training continues its run there, which is found by the tag lrm_jax.workdir."""

  def __init__(self, workdir: epath.Path):
    self._mlflow = importlib.import_module('mlflow')
    self._client, self._workdir = self._mlflow.MlflowClient(), workdir
    self._run: Any = None

  def start(self, step: int, config: Mapping, about: Mapping) -> None:
    client, tag = self._client, 'lrm_jax.workdir'
    name = os.environ.get('MLFLOW_EXPERIMENT_NAME', 'lrm_jax')
    experiment = client.get_experiment_by_name(name)
    number = client.create_experiment(name) if experiment is None else experiment.experiment_id
    earlier = [run for run in client.search_runs([number]) if run.data.tags.get(tag) == os.fspath(self._workdir)]
    if earlier:
      self._run = earlier[0].info.run_id
      client.update_run(self._run, status='RUNNING')
    else:
      self._run = client.create_run(
        number, tags={tag: os.fspath(self._workdir)}, run_name=self._workdir.name
      ).info.run_id
    # Parameters of MLflow cannot be changed, so those of a resumed run are tags: start.<step>.<name>.
    known = client.get_run(self._run).data.params
    for key, value in _flat({**config, 'about': about}).items():
      text = str(value)[:500] or "''"
      if key not in known:
        client.log_param(self._run, key, text)
      elif known[key] != text:
        client.set_tag(self._run, f'start.{step}.{key}', text)

  def write(self, step: int, values: Mapping[str, float]) -> None:
    now = int(time.time() * 1000)
    metrics = [self._mlflow.entities.Metric(name, value, now, step) for name, value in values.items()]
    self._client.log_batch(self._run, metrics=metrics)

  def write_image(self, step: int, name: str, image: np.ndarray) -> None:
    self._client.log_image(self._run, image, artifact_file=f'images/{name}_{step:08d}.png')

  def close(self) -> None:
    if self._run is not None:
      self._client.set_terminated(self._run)
      self._run = None


def _flat(values: Mapping) -> dict[str, object]:
  """Returns {'a.b': value} of nested dicts."""
  return traverse_util.flatten_dict(dict(values), sep='.')


_SERVICES: dict[str, Callable[[epath.Path], Writer]] = {'wandb': WeightsAndBiases, 'mlflow': MLflow}


class _Service:
  """A tracker that stops after its first error: a service that is unreachable must not end a training."""

  def __init__(self, name: str, workdir: epath.Path):
    self._name = name
    self._writer: Writer | None = None
    self._do(lambda: setattr(self, '_writer', _SERVICES[name](workdir)))

  def start(self, step: int, config: Mapping, about: Mapping) -> None:
    self._call('start', step, config, about)

  def write(self, step: int, values: Mapping[str, float]) -> None:
    self._call('write', step, values)

  def write_image(self, step: int, name: str, image: np.ndarray) -> None:
    self._call('write_image', step, name, image)

  def close(self) -> None:
    self._call('close')

  def _call(self, method: str, *arguments) -> None:
    if self._writer is not None:
      self._do(lambda: getattr(self._writer, method)(*arguments))

  def _do(self, action: Callable[[], object]) -> None:
    try:
      action()
    except Exception as error:  # Services raise exceptions of many types.
      self._writer = None
      print(
        f'warning: {self._name} failed and gets nothing more from this run: {type(error).__name__}: {one_line(error)}',
        file=sys.stderr,
      )
