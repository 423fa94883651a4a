"""Renders objects into folders with a pool of workers, and tells the person at the terminal how it goes.

Finished folders are kept, so that the same command continues. Results are appended to OUT/report.jsonl.
"""

from collections.abc import Callable, Sequence
import json
from pathlib import Path
import signal
import sys
import time

from lrm_jax.data.rendering import pool
from lrm_jax.errors import InputError


def render(
  program: str,
  objects: Sequence[tuple[str, Path]],
  out: Path,
  settings: dict,
  command: Sequence[str],
  *,
  workers: int,
  timeout: float,
  is_done: Callable[[str], bool] | None = None,
  lines_every: int = 1,
) -> int:
  """Renders (uid, file) into out/<uid> as pool.render_all does, except those that are done; returns the exit code.

  The code is 0, 1 if objects failed, or 130 after Ctrl-C. `is_done` tells whether an object is complete; by default,
  if its folder exists. A line is printed for every `lines_every` objects and for each failure; `program` is the name in
  front of messages. Raises InputError if the workers cannot be started.
  """
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # As for Ctrl-C, stop workers and clean up.
  out.mkdir(parents=True, exist_ok=True)
  pool.remove_leftovers(out)
  todo = [(uid, path) for uid, path in objects if not (is_done(uid) if is_done else (out / uid).is_dir())]
  if done := len(objects) - len(todo):
    print(f'{done} of {len(objects)} objects are already rendered', flush=True)
  start, failed = time.monotonic(), {}
  try:
    results = pool.render_all(todo, out, settings, command, workers=workers, timeout=timeout)
    with open(out / 'report.jsonl', 'a', encoding='utf-8') as report:
      for number, result in enumerate(results, 1):
        if result.error:
          failed[result.uid] = result.error
          print(f'{result.uid}: FAILED: {result.error}', file=sys.stderr, flush=True)
        if number % lines_every == 0 or number == len(todo):
          seconds = time.monotonic() - start
          print(
            f'[{done + number}/{len(objects)}] {result.uid}: {result.seconds:.1f} s; {seconds:.0f} s in all, '
            f'{seconds / number:.3f} s per object',
            flush=True,
          )
        report.write(json.dumps({'uid': result.uid, 'error': result.error, 'seconds': round(result.seconds, 3)}) + '\n')
        report.flush()
  except pool.EngineError as error:
    raise InputError(f'the renderer cannot be started: {error}') from error
  except KeyboardInterrupt:
    print(f'{program}: interrupted; run the same command to resume', file=sys.stderr)
    return 130
  if failed:
    names = ', '.join(list(failed)[:10]) + (' ...' if len(failed) > 10 else '')
    print(
      f'{program}: {len(failed)} of {len(objects)} objects failed; reasons are in {out}/report.jsonl: {names}',
      file=sys.stderr,
    )
  return 1 if failed else 0
