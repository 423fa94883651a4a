"""Renders objects in an Apache Beam pipeline: python -m lrm_jax.data.render_beam OBJECT... --out=DIR [--runner=...]

Takes the options of data/render.py, except --workers and --shard, and any option of Beam, such as
--runner=FlinkRunner, SparkRunner or DataflowRunner and their own options. The machines of the runner must have access
to the objects and DIR under the given paths, and the engine must be installed on them. Objects that fail do not stop
the others; DIR/report-*.jsonl has one line per object with its error or null. The exit code is 1 if any failed.
"""

from collections.abc import Sequence
import json
from pathlib import Path
import sys
import time

from lrm_jax.command_line import run_main
from lrm_jax.data import render
from lrm_jax.data.rendering import pool
from lrm_jax.errors import BAD_INPUT

try:
  import apache_beam as beam
  from apache_beam.options.pipeline_options import PipelineOptions
except ImportError:
  print("error: render_beam: Apache Beam is not installed: pip install '.[beam]'", file=sys.stderr)
  sys.exit(BAD_INPUT)


class RenderObject(beam.DoFn):
  """Renders (uid, file) and yields a line of the report. Keeps one worker process, and replaces it if it has died."""

  def __init__(self, out: str, settings: dict, command: list[str], timeout: float):
    self._out, self._settings, self._command, self._timeout = out, settings, command, timeout
    self._worker = None

  def process(self, work):
    uid, file = work
    out, start, error = Path(self._out), time.monotonic(), None
    if not (out / uid).is_dir():
      if self._worker is not None and not self._worker.alive:
        self._worker.close()
        self._worker = None
      if self._worker is None:
        self._worker = pool.Worker(self._command, self._settings, out)
      error = self._worker.render(uid, Path(file), self._timeout)
      beam.metrics.Metrics.counter('render', 'failed' if error else 'rendered').inc()
    yield json.dumps({'uid': uid, 'error': error, 'seconds': round(time.monotonic() - start, 3)})

  def teardown(self):
    if self._worker is not None:
      self._worker.close()
      self._worker = None


def main() -> int:
  args, rest = render.parse(known=True)
  objects = [(uid, path.absolute()) for uid, path in render.chosen_objects(args)]
  command = render.worker_command(args.engine)
  return run(objects, args.out, render.settings_of(args), command, args.timeout, rest)


def run(
  objects: Sequence[tuple[str, Path]],
  out: Path,
  settings: dict,
  command: list[str],
  timeout: float,
  options: Sequence[str],
) -> int:
  """Renders objects (uid, file) into out/<uid> in a pipeline with these Beam options; returns the exit code.

  `settings`, `command` and `timeout` are those of `pool.render_all`.
  """
  out.mkdir(parents=True, exist_ok=True)
  pool.remove_leftovers(out)
  step = RenderObject(str(out.absolute()), settings, command, timeout)
  with beam.Pipeline(options=PipelineOptions(options, save_main_session=False)) as pipeline:
    work = beam.Create([(uid, str(path)) for uid, path in objects])
    lines = pipeline | work | beam.Reshuffle() | beam.ParDo(step)
    lines | beam.io.WriteToText(str(out / 'report'), file_name_suffix='.jsonl')
  reports = [json.loads(line) for path in out.glob('report-*.jsonl') for line in path.read_text().splitlines()]
  failed = [report for report in reports if report['error']]
  for report in failed:
    print(f'{report["uid"]}: FAILED: {report["error"]}', file=sys.stderr)
  print(f'{out}: {len(objects) - len(failed)} of {len(objects)} objects rendered')
  return int(bool(failed))


if __name__ == '__main__':
  run_main(main)
