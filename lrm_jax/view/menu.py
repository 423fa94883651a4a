"""The models that a page offers: those given to the command, and those that ship with the package."""

from collections.abc import Sequence
from pathlib import Path
import threading

from lrm_jax.reconstruction.reconstructor import Reconstructor, from_pretrained
from lrm_jax.view.request_error import RequestError
from lrm_jax.weights import pretrained


class Menu:
  """Models by the names that were given for them; the first one is the default. They are loaded on first use.

  All methods may be called from any thread. Raises InputError if a source is not on this machine and is no address.
  """

  def __init__(self, sources: Sequence[str] = ()):
    shipped = sorted(path.name for path in pretrained.SHIPPED.glob('*/'))
    self.names = tuple(dict.fromkeys([*sources, *shipped]))
    for source in sources:
      if '://' not in source:  # Addresses are looked up on first use: a download would delay the page.
        pretrained.recognise(source)
    self._loaded: dict[str, Reconstructor] = {}
    self._lock = threading.Lock()

  def check(self, name: str) -> None:
    """Raises RequestError (400) if a model is not on the menu: clients choose from it and cannot name other sources."""
    if name not in self.names:
      raise RequestError(400, f'model={name[:60]} is not on the menu: use {", ".join(self.names)}')

  def get(self, name: str) -> Reconstructor:
    """Returns a model of the menu, loaded; raises RequestError if it is not on it, and InputError as `load` does."""
    self.check(name)
    with self._lock:
      if name not in self._loaded:
        self._loaded[name] = from_pretrained(name)
      return self._loaded[name]

  def describe(self) -> list[dict]:
    """Returns a description of each model: its name, a short label, and if it is loaded what the page shows of it."""
    result = []
    for name in self.names:
      label = name if '://' in name else Path(name).name or name
      entry: dict = {'name': name, 'label': label, 'loaded': name in self._loaded}
      if model := self._loaded.get(name):
        entry |= {'image_size': model.image_size, 'step': model.step, 'foreground_ratio': model.fill}
      result.append(entry)
    return result
