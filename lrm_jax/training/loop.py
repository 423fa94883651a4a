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
from lrm_jax.distributed import processes, sharding
from lrm_jax.errors import InputError, Interrupted
from lrm_jax.evaluation import results
from lrm_jax.storage import checkpoint, lock, paths, preservation
from lrm_jax.training import about, inputs, resume
from lrm_jax.training.evaluator import Evaluator
from lrm_jax.training.metric_writer import MetricWriter
from lrm_jax.training.mixture import DatasetErrors
from lrm_jax.training.optimizer import make_optimizer
from lrm_jax.training.progress import Progress
from lrm_jax.training.timing import Profile, Timing
from lrm_jax.training.trainer import Trainer
from lrm_jax.weights.vgg import load_lpips


class DivergedError(InputError):
  """More than config.max_skipped_steps consecutive steps were skipped. The last checkpoint is kept."""


def train(
  config: ConfigDict,
  workdir: str | Path,
  *,
  time_limit_seconds: float | None = None,
  profile_steps: tuple[int, int] | None = None,
  synthetic_data: bool = False,
) -> dict[str, float]:
  """Trains until config.num_train_steps, and returns the metrics of the last evaluation on held-out objects.

  Resumes if `workdir` has a checkpoint. With `time_limit_seconds`, the schedule follows the clock and the learning rate
  reaches zero at the time limit; this is for a single process. The steps `profile_steps` (first, last) are profiled.
  With `synthetic_data`, batches are random, and nothing is evaluated or saved; this measures the speed.
  Raises DivergedError if too many consecutive steps were skipped. If any process of the training gets SIGTERM, saves a
  checkpoint and raises Interrupted.
  """
  if not synthetic_data:
    inputs.check_path(config)
  if time_limit_seconds is not None and processes.several():
    raise InputError(
      f'a time limit ({time_limit_seconds:g} s) needs a single process: clocks differ, and processes must agree on the '
      'step at which they stop; set config.num_train_steps instead'
    )
  workdir = paths.directory(workdir)
  lpips = load_lpips(config.loss.lpips_network) if config.loss.lpips_weight > 0 else None
  trainer = Trainer(config, lpips=lpips, synthetic_data=synthetic_data)
  # Check all inputs before writing anything.
  if not synthetic_data:
    for source in trainer.sources:
      open_split(source.path, source.split)
  elif checkpoint.saved_steps(workdir):
    raise InputError(f'--synthetic_data measures the speed, and {workdir} is a training: give another --workdir')
  evaluator = None if synthetic_data else Evaluator(trainer)
  given, origin = ({}, []) if checkpoint.saved_steps(workdir) else trainer.read_weights()
  first = jax.process_index() == 0
  with lock.exclusive(workdir) if first else contextlib.nullcontext(), processes.StopRequest() as stop:
    best = _best_policy(workdir, config.best_metric)
    checkpoints = checkpoint.manager(workdir, keep_every=config.keep_every, best=best)
    with _closing(checkpoints), jax.set_mesh(trainer.mesh):
      last = trainer.last_state(checkpoints)
      if last is None:
        state, position, status = trainer.first_state(given), resume.Position(), '\n'.join(['a new run', *origin])
      else:
        state, position, status = last[0], *_resume(trainer, last[1], checkpoint.read_config(workdir))
      step = trainer.compile()
      if first:
        network = f'; LPIPS network: {lpips.source}' if lpips else ''
        epochs = 'synthetic data' if synthetic_data else inputs.epochs(config, trainer.sources)
        print(f'{workdir}: {status}{network}\n{epochs}\n{describe_devices(trainer, step)}', file=sys.stderr)
        checkpoint.write_config(workdir, config)
      profile = Profile(workdir, profile_steps)
      return _loop(
        trainer, evaluator, step, state, position, workdir, checkpoints, best, stop, time_limit_seconds, profile
      )


def _resume(trainer: Trainer, progress: dict, old: ConfigDict) -> tuple[resume.Position, str]:
  """Returns (position, what to tell) of a checkpoint with this `progress`, saved with the configuration `old`.

  Raises InputError if the data differ and config.allow_other_data is False.
  """
  config, position = trainer.config, resume.read_position(progress, old)
  changes = resume.differences(old, config)
  resume.check(position, changes, trainer.sources, config.allow_other_data)
  _, schedule = make_optimizer(num_train_steps=old.num_train_steps, **old.optimizer)
  rates = float(schedule(position.schedule)), float(trainer.schedule(position.schedule))
  notes = resume.describe(position, changes, rates, config.num_train_steps)
  return position, f'resuming after step {position.step}' + (f'\n{notes}\n' if notes else '')


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
  average = f', moving average {part("ema")}' if 'ema' in shapes else ''
  memory = step.memory_analysis()
  activations = size(memory.temp_size_in_bytes) if memory is not None else 'of unknown size'
  return (
    f'{devices}: batch sharded over {mesh.size}, parameters over {mesh.shape["fsdp"]}; per device: parameters '
    f'{part("params")}, optimizer {part("opt_state")}{average}, gradients and activations {activations}, for '
    f'{trainer.config.batch_size // mesh.size} objects per step'
    + (f' in {trainer.accumulation} micro-batches' if trainer.accumulation > 1 else '')
  )


def _loop(
  trainer: Trainer,
  evaluator: Evaluator | None,
  compiled: jax.stages.Compiled,
  state: dict,
  start: resume.Position,
  workdir: epath.Path,
  checkpoints,
  best: preservation.Best | None,
  stop: processes.StopRequest,
  time_limit: float | None,
  profile: Profile,
) -> dict[str, float]:
  """Runs the remaining steps. `time_limit` is in seconds."""
  config, first = trainer.config, start.step
  data = resume.identity(trainer.sources)
  writer = MetricWriter(workdir, active=jax.process_index() == 0, tracker_names=config.trackers)
  writer.truncate_after(first)
  writer.start(first, config.to_dict(), about.about())
  progress = Progress(first, config.num_train_steps, objects_per_step=config.batch_size, active=writer.active)
  timing, datasets = Timing(config, trainer.mesh, start), DatasetErrors([source.name for source in trainer.sources])
  batches = trainer.batches(start.examples)
  began, step, pending, result = time.monotonic(), first, None, {}
  position = start.schedule if time_limit is None else 0.0  # With a time limit, each run has the whole time.
  overdue = _Overdue(config.checkpoint_minutes, config.log_every)
  try:
    while position < config.num_train_steps:
      with timing.waiting_for_data():
        batch, records = next(batches)
      profile.before(step + 1)
      state, metrics = compiled(state, batch, np.float32(position), trainer.lpips)
      del batch  # Its memory is free when the step ends, before the next batch is there.
      # Handles the metrics of the previous step while this one runs, so that the device never waits for the host.
      _finish_step(pending, trainer, writer, progress, timing, datasets)
      step += 1
      profile.after(step, metrics)
      position = start.schedule + step - first
      if time_limit is not None:
        position = (time.monotonic() - began) / time_limit * config.num_train_steps
      last = position >= config.num_train_steps
      stops = stop.at(step) and not last
      pending = _Pending(step, min(position, config.num_train_steps), metrics, records)
      if evaluator is not None and (last or (step % config.eval_every == 0 and not stops)):
        with timing.paused():
          result = pending.scores = evaluator(state, step, writer)
        progress.note(result)
      improved = bool(best and pending.scores and _is_best(best, config.best_metric, pending.scores, checkpoints))
      if last or stops or improved or step % config.checkpoint_every == 0 or overdue.at(step):
        scores = pending.scores
        # Before saving, so that a diverged state is never saved.
        _finish_step(pending, trainer, writer, progress, timing, datasets)
        pending = None
        writer.flush()
        if not trainer.synthetic_data:
          examples = start.examples + (step - first) * config.batch_size
          now = resume.Position(step, examples, position, data, timing.began, timing.training_seconds, scores)
          with timing.paused():
            checkpoint.save(checkpoints, state, dataclasses.asdict(now))
          overdue.restart()
      if stops:
        checkpoint.finish(checkpoints)
        raise Interrupted(f'{workdir}: stopped by SIGTERM; step {step} is saved, and the same command resumes from it')
  finally:
    batches.close()
    profile.close()
    progress.close()
    writer.close()
  checkpoint.finish(checkpoints)
  return result


def _best_policy(workdir: epath.Path, metric: str) -> preservation.Best | None:
  """Returns the policy that keeps the best checkpoint by a metric, such as eval_psnr; None for ''."""
  if not metric:
    return None
  return checkpoint.best_policy(workdir, metric, lower_is_better=metric.endswith(results.LOWER_IS_BETTER))


def _is_best(best: preservation.Best, metric: str, scores: dict[str, float], checkpoints) -> bool:
  if metric not in scores:
    raise InputError(f'config.best_metric = {metric!r} is not among the metrics of an evaluation: {", ".join(scores)}')
  checkpoint.finish(checkpoints)  # The scores of the last one count, too.
  return best.improves(scores[metric], checkpoints.all_steps())


class _Overdue:
  """Decides whether `minutes` have passed since the last checkpoint (0: never), the same in all processes.

  Several processes ask the first one, at every `every` steps only, because each question waits for the devices.
  """

  def __init__(self, minutes: float, every: int):
    self._seconds, self._every = 60 * minutes, every
    self.restart()

  def restart(self) -> None:
    self._began = time.monotonic()

  def at(self, step: int) -> bool:
    if not self._seconds:
      return False
    late = time.monotonic() - self._began >= self._seconds
    if not processes.several():
      return late
    return step % self._every == 0 and bool(multihost_utils.broadcast_one_to_all(np.bool_(late)))


@dataclasses.dataclass
class _Pending:
  """A step that the devices are still computing."""

  step: int
  position: float  # In the schedule, in steps.
  metrics: dict
  records: np.ndarray  # Numbers of the records that this process read.
  scores: dict = dataclasses.field(default_factory=dict)


def _finish_step(
  pending: _Pending | None,
  trainer: Trainer,
  writer: MetricWriter,
  progress: Progress,
  timing: Timing,
  datasets: DatasetErrors,
) -> None:
  """Waits for the metrics of a step, shows them and writes them.

  Raises DivergedError if more than config.max_skipped_steps consecutive steps were skipped.
  """
  if pending is None:
    return
  config = trainer.config
  timing.step_done()
  errors = pending.metrics.pop('datasets', None)
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
  elif errors is not None:
    datasets.add(np.asarray(errors) * trainer.accumulation)  # It is a mean over micro-batches.
  progress.update(step, values, pending.position)
  if step % config.log_every == 0 or step == 1 or pending.scores or skipped:
    values |= datasets.values() | {'images_per_second': progress.images_per_second}
    writer.write(step, values | timing.values(progress.step_seconds) | pending.scores)


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
