"""A queue that serves clients in turn: one job of each, so that nobody waits for all jobs of another.

Not safe for several threads by itself; jobs.py holds a lock.
"""

from collections import OrderedDict, deque
from typing import Generic, TypeVar

Item = TypeVar('Item')


class FairQueue(Generic[Item]):
  """Items of several clients. The items of one client keep their order; between clients it is round robin."""

  def __init__(self):
    self._waiting: OrderedDict[str, deque[Item]] = OrderedDict()  # The first client is next.

  def __len__(self) -> int:
    return sum(map(len, self._waiting.values()))

  def count(self, client: str) -> int:
    """Returns how many items of a client are waiting."""
    return len(self._waiting.get(client, ()))

  def put(self, client: str, item: Item) -> None:
    """Adds an item behind the others of its client."""
    self._waiting.setdefault(client, deque()).append(item)

  def take(self) -> Item:
    """Removes and returns the next item; its client comes last afterwards. Raises IndexError if there is none."""
    if not self._waiting:
      raise IndexError('the queue is empty')
    client, items = self._waiting.popitem(last=False)
    item = items.popleft()
    if items:
      self._waiting[client] = items
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
    lines = [list(items) for items in self._waiting.values()]
    longest = max(map(len, lines), default=0)
    return [line[turn] for turn in range(longest) for line in lines if turn < len(line)]
