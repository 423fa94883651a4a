"""A queue that serves clients in turn: one job of each, so that nobody waits for all jobs of another.

Not safe for several threads by itself; jobs.py holds a lock.
"""

from collections import deque
from typing import Generic, TypeVar

Item = TypeVar('Item')
_REMEMBERED = 256  # clients whose last turn is known, at most


class FairQueue(Generic[Item]):
  """Items of several clients. The items of one client keep their order; the client served longest ago is next."""

  def __init__(self):
    self._waiting: dict[str, deque[Item]] = {}  # In the order in which the clients came.
    self._last_turn: dict[str, int] = {}  # The oldest first.
    self._turn = 0

  def __len__(self) -> int:
    return sum(map(len, self._waiting.values()))

  def count(self, client: str) -> int:
    """Returns how many items of a client are waiting."""
    return len(self._waiting.get(client, ()))

  def put(self, client: str, item: Item) -> None:
    """Adds an item behind the others of its client."""
    self._waiting.setdefault(client, deque()).append(item)

  def take(self) -> Item:
    """Removes and returns the next item. Raises IndexError if there is none."""
    if not self._waiting:
      raise IndexError('the queue is empty')
    client = min(self._waiting, key=lambda name: self._last_turn.get(name, 0))
    item = self._waiting[client].popleft()
    if not self._waiting[client]:
      del self._waiting[client]
    self._turn += 1
    self._last_turn.pop(client, None)
    self._last_turn[client] = self._turn
    if len(self._last_turn) > _REMEMBERED:
      del self._last_turn[next(iter(self._last_turn))]
    return item

  def remove(self, item: Item) -> bool:
    """Removes an item; returns whether it was waiting."""
    for client, items in self._waiting.items():
      if item in items:
        items.remove(item)
        if not items:
          del self._waiting[client]
        return True
    return False

  def order(self) -> list[Item]:
    """Returns the items in the order in which `take` would return them."""
    copy: FairQueue[Item] = FairQueue()
    copy._waiting = {client: deque(items) for client, items in self._waiting.items()}
    copy._last_turn, copy._turn = dict(self._last_turn), self._turn
    return [copy.take() for _ in range(len(self))]
