"""The training loop: takes batches, writes metrics and checkpoints, stops on SIGTERM, and resumes.

A run directory contains config.json, checkpoints, metrics.jsonl, tensorboard and images. On one process, a resumed run
on CPUs is bit-identical to an uninterrupted one. docs/operations.md lists the faults that are handled.
"""

from collections.abc import Iterator
import contextlib
import dataclasses
from pathlib import Path
import sys
import time

from etils import epath
import jax
from jax.experimental import multihost_utils
from ml_collections import ConfigDict
import numpy as np

from lrm_jax.datasets import pipeline
from lrm_jax.datasets.records import open_split
from lrm_jax.datasets.views import load_views
from lrm_jax.distributed import processes, sharding
from lrm_jax.errors import InputError, Interrupted
from lrm_jax.evaluation import novel_views
from lrm_jax.models import registry
from lrm_jax.storage import checkpoint, lock, paths
from lrm_jax.training import about, inputs
from lrm_jax.training.metric_writer import MetricWriter
from lrm_jax.training.progress import Progress
from lrm_jax.training.trainer import Trainer
from lrm_jax.weights.vgg import load_lpips


class DivergedError(InputError):
  """More than config.max_skipped_steps consecutive steps were skipped. The last checkpoint is kept."""


def train(config: ConfigDict, workdir: str | Path, *, time_limit_seconds: float | None = None) -> dict[str, float]:
  """Trains until config.num_train_steps, and returns the metrics of the last evaluation on held-out objects.

  Resumes if `workdir` has a checkpoint. With `time_limit_seconds`, the schedule follows the clock and the learning rate
  reaches zero at the time limit; this is for a single process. Raises DivergedError if too many consecutive steps were
  skipped. If any process of the training gets SIGTERM, saves a checkpoint and raises Interrupted.
  """
  if not config.data.path:
    raise InputError(
      'config.data.path is empty: give the directory of a dataset, --config.data.path=DIR, or the shipped dataset, '
      '--config.data.path=embedded'
    )
  if time_limit_seconds is not None and processes.several():
    raise InputError(
      f'a time limit ({time_limit_seconds:g} s) needs a single process: clocks differ, and processes must agree on the '
      'step at which they stop; set config.num_train_steps instead'
    )
  workdir = paths.directory(workdir)
  lpips = load_lpips(config.loss.lpips_network) if config.loss.lpips_weight > 0 else None
  trainer = Trainer(config, lpips=lpips)
  # Check all inputs before writing anything.
  for path, split in [(x.path, x.split) for x in trainer.sources] + [(config.data.path, config.data.eval_split)]:
    open_split(path, split)
  given = {} if checkpoint.saved_steps(workdir) else trainer.read_weights()
  first = jax.process_index() == 0
  with lock.exclusive(workdir) if first else contextlib.nullcontext(), processes.StopRequest() as stop:
    checkpoints = checkpoint.manager(workdir, keep_every=config.keep_every)
    with _closing(checkpoints), jax.set_mesh(trainer.mesh):
      state = trainer.last_state(checkpoints)
      status = 'a new run' if state is None else f'resuming after step {int(state["step"])}'
      state = trainer.first_state(given) if state is None else state
      step = trainer.compile()
      if first:
        network = f'; LPIPS network: {lpips.source}' if lpips else ''
        epochs = inputs.epochs(config, trainer.sources)
        print(f'{workdir}: {status}{network}\n{epochs}\n{describe_devices(trainer, step)}', file=sys.stderr)
        checkpoint.write_config(workdir, config)
      return _loop(trainer, step, state, workdir, checkpoints, stop, time_limit_seconds)


@contextlib.contextmanager
def _closing(checkpoints) -> Iterator[None]:
  """Closes the manager at the end, except after an error with peers: we would wait for the peers, and they for us."""
  try:
    yield
  except BaseException as error:
    if isinstance(error, Interrupted) or not processes.several():
      checkpoints.close()
    raise
  checkpoints.close()


def describe_devices(trainer: Trainer, step: jax.stages.Compiled) -> str:
  """Returns a line that lists the devices, and the memory that a compiled step needs on each of them."""
  mesh, shapes, shardings = trainer.mesh, trainer.abstract_state, trainer.shardings

  def size(count):
    return f'{count / 2**30:.2f} GiB' if count >= 2**28 else f'{count / 2**20:.1f} MiB'

  def part(name):
    return size(sharding.bytes_per_device(shapes[name], shardings[name]))

  devices = f'{mesh.size} x {mesh.devices.flat[0].device_kind}'
  if jax.process_count() > 1:
    devices += f' of {jax.process_count()} processes'
  memory = step.memory_analysis()
  activations = size(memory.temp_size_in_bytes) if memory is not None else 'of unknown size'
  return (
    f'{devices}: batch sharded over {mesh.size}, parameters over {mesh.shape["fsdp"]}; per device: parameters '
    f'{part("params")}, optimizer {part("opt_state")}, gradients and activations {activations}, for '
    f'{trainer.config.batch_size // mesh.size} objects per step'
  )


def _loop(
  trainer: Trainer,
  compiled: jax.stages.Compiled,
  state: dict,
  workdir: epath.Path,
  checkpoints,
  stop: processes.StopRequest,
  time_limit: float | None,
) -> dict[str, float]:
  """Runs the remaining steps. `time_limit` is in seconds."""
  config = trainer.config
  first = int(state['step'])
  writer = MetricWriter(
    workdir, active=jax.process_index() == 0, tracker_names=config.get('trackers', ('tensorboard',))
  )
  writer.truncate_after(first)
  writer.start(first, config.to_dict(), about.about())
  progress = Progress(first, config.num_train_steps, objects_per_step=config.batch_size, active=writer.active)
  evaluator = Evaluator(trainer, writer)
  batches = trainer.batches(first)
  began, position, step, pending, result = time.monotonic(), float(first), first, None, {}
  try:
    while position < config.num_train_steps:
      batch, records = next(batches)
      state, metrics = compiled(state, batch, np.float32(position), trainer.lpips)
      # Handles the metrics of the previous step while this one runs, so that the device never waits for the host.
      _finish_step(pending, trainer, writer, progress)
      step += 1
      position = float(step)
      if time_limit is not None:
        position = (time.monotonic() - began) / time_limit * config.num_train_steps
      last = position >= config.num_train_steps
      stops = stop.at(step) and not last
      pending = _Pending(step, min(position, config.num_train_steps), metrics, records)
      if last or (step % config.eval_every == 0 and not stops):
        result = pending.scores = evaluator(state, step)
        progress.note(result)
      if last or stops or step % config.checkpoint_every == 0:
        _finish_step(pending, trainer, writer, progress)  # Before saving, so that a diverged state is never saved.
        pending = None
        writer.flush()
        checkpoint.save(checkpoints, state)
      if stops:
        checkpoint.finish(checkpoints)
        raise Interrupted(f'{workdir}: stopped by SIGTERM; step {step} is saved, and the same command resumes from it')
  finally:
    batches.close()
    progress.close()
    writer.close()
  checkpoint.finish(checkpoints)
  return result


@dataclasses.dataclass
class _Pending:
  """A step that the devices are still computing."""

  step: int
  position: float  # In the schedule, in steps.
  metrics: dict
  records: np.ndarray  # Numbers of the records that this process read.
  scores: dict = dataclasses.field(default_factory=dict)


def _finish_step(pending: _Pending | None, trainer: Trainer, writer: MetricWriter, progress: Progress) -> None:
  """Waits for the metrics of a step, shows them and writes them.

  Raises DivergedError if more than config.max_skipped_steps consecutive steps were skipped.
  """
  if pending is None:
    return
  config = trainer.config
  step, values = pending.step, {name: float(value) for name, value in pending.metrics.items()}
  if skipped := round(values['skipped']):
    _report_skipped(pending, values, trainer, writer)
    if skipped > config.max_skipped_steps:
      raise DivergedError(
        f'step {step}: loss {values["loss"]:.4g}, gradient norm {values["grad_norm"]:.4g}; more than '
        f'config.max_skipped_steps = {config.max_skipped_steps} steps in a row were skipped. The last checkpoint is '
        f'kept: inspect the objects of these steps in {writer.skipped_path}, or resume with a lower '
        'config.optimizer.learning_rate'
      )
  progress.update(step, values, pending.position)
  if step % config.log_every == 0 or step == 1 or pending.scores or skipped:
    writer.write(step, {**values, 'images_per_second': progress.images_per_second, **pending.scores})


def _report_skipped(pending: _Pending, values: dict[str, float], trainer: Trainer, writer: MetricWriter) -> None:
  """Writes the uids of the objects of a skipped step, gathered from all processes, to skipped.jsonl."""
  records = pending.records
  if processes.several():
    records = multihost_utils.process_allgather(records, tiled=True)
  if writer.active:
    uids = pipeline.uids(trainer.sources, records)
    writer.write_skipped(pending.step, {'loss': values['loss'], 'grad_norm': values['grad_norm'], 'uids': uids})
    print(
      f'step {pending.step} was skipped: loss {values["loss"]:.4g}, gradient norm {values["grad_norm"]:.4g}; its '
      f'objects are listed in {writer.skipped_path}',
      file=sys.stderr,
    )


class Evaluator:
  """Evaluates the model on held-out objects during training. Their views are read once."""

  def __init__(self, trainer: Trainer, writer: MetricWriter):
    self.trainer, self.writer = trainer, writer
    self.views: dict | None = None

  def __call__(self, state: dict, step: int) -> dict[str, float]:
    """Writes an image of some renders at this step; returns {eval_<metric>: value}, means over the novel views."""
    model, config, data = self.trainer.model, self.trainer.config, self.trainer.config.data
    if self.views is None:
      self.views = load_views(
        data.path,
        data.eval_split,
        image_size=config.model.image_size,
        size=data.eval_size,
        indices=range(data.eval_objects),
        input_background=data.input_background,
        input_position=model.input_position,
        keep_distance=data.keep_distance,
      )
    pixels = novel_views.predict(registry.with_parameters(model, state['params']), self.views)
    scores = novel_views.score(pixels, self.views, self.trainer.lpips)
    scores = {f'eval_{name}': value for name, value in scores.items() if name != 'per_object'}
    self.writer.write_image(step, 'eval', novel_views.comparison(pixels, self.views))
    return scores
