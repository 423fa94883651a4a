"""What a run leaves behind to look at: DIR/metrics.jsonl, TensorBoard events, pictures."""

import json
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
from tensorboardX import SummaryWriter

from lrm_jax import images


class MetricWriter:
  """Appends scalars and pictures to a run directory; where not `active` (other processes), does nothing."""

  def __init__(self, workdir: str | Path, *, active: bool = True):
    self.workdir, self.active = Path(workdir), active
    if active:
      self.workdir.mkdir(parents=True, exist_ok=True)
      self._board = SummaryWriter(str(self.workdir / 'tensorboard'))

  @property
  def path(self) -> Path:
    return self.workdir / 'metrics.jsonl'

  def truncate_after(self, step: int) -> None:
    """Drops lines of steps beyond `step`: what a stopped run wrote after its last checkpoint is done again."""
    if not self.active or not self.path.exists():
      return
    kept = [line for line in self.path.read_text().splitlines() if _is_before(line, step)]
    fresh = self.path.with_suffix('.jsonl.tmp')
    fresh.write_text(''.join(line + '\n' for line in kept))
    fresh.rename(self.path)

  def write(self, step: int, values: dict[str, float]) -> None:
    """Appends one JSON line {"step": step, ...} and the same to TensorBoard; it can be read at once."""
    if not self.active:
      return
    with self.path.open('a') as stream:
      stream.write(json.dumps({'step': step, **values}) + '\n')
    for name, value in values.items():
      self._board.add_scalar(name, value, step)

  def write_image(self, step: int, name: str, image: np.ndarray) -> None:
    """Writes a picture [H, W, 3] in 0..1 to DIR/images/<name>_<step>.png and TensorBoard."""
    if not self.active:
      return
    path = self.workdir / 'images' / f'{name}_{step:08d}.png'
    path.parent.mkdir(exist_ok=True)
    imageio.imwrite(path, images.to_bytes(image))
    self._board.add_image(name, images.to_bytes(image), step, dataformats='HWC')

  def close(self) -> None:
    if self.active:
      self._board.close()


def read(workdir: str | Path) -> list[dict[str, float]]:
  """Returns the lines of a run's metrics.jsonl."""
  lines = (Path(workdir) / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines if line.strip()]


def _is_before(line: str, step: int) -> bool:
  try:
    return json.loads(line)['step'] <= step
  except (json.JSONDecodeError, KeyError):  # The last line of a run that was killed while it wrote.
    return False
