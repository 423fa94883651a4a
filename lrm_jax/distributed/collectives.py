"""Counts the collectives of a compiled program from its HLO text, including the iterations of loops."""

import collections
import math
import re

KINDS = ('all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all', 'collective-permute')

_BYTES = {
  'pred': 1,
  's8': 1,
  'u8': 1,
  's16': 2,
  'u16': 2,
  'f16': 2,
  'bf16': 2,
  's32': 4,
  'u32': 4,
  'f32': 4,
  's64': 8,
  'u64': 8,
  'f64': 8,
}
_COMPUTATION = re.compile(r'^(ENTRY )?%?([\w.\-]+) .*\{$')
_SHAPE = re.compile(r'\b(' + '|'.join(_BYTES) + r')\[([\d,]*)\]')
_OPERATION = re.compile(r'= (.*?) (' + '|'.join(KINDS) + r')(-start)?\(')
_CALLED = re.compile(
  r'(?:calls|to_apply|condition|body|called_computations=\{|branch_computations=\{)=?\{?%?([\w.\-]+)'
)
_TRIPS = re.compile(r'known_trip_count\D*(\d+)')
_CONDITION = re.compile(r'condition=%?([\w.\-]+)')
_CONSTANT = re.compile(r'%?([\w.\-]+) = [su]32\[\]\S* constant\((\d+)\)')
_LESS = re.compile(r'ROOT .* compare\(%?[\w.\-]+, %?([\w.\-]+)\), direction=LT')


def collectives(text: str) -> dict[str, tuple[int, int]]:
  """Returns {kind: (count, bytes)} of the collectives that each device runs, for the text of a compiled program.

  The text is `compiled.as_text()`. Bytes are those of the result (of a reduce-scatter: of its input), summed over all
  runs. A loop whose number of iterations is unknown counts once.
  """
  lines, entry = _computations(text)
  times = collections.Counter({entry: 1})
  callers = {
    name: [(called, trips) for line in body for called, trips in _calls(line, lines)] for name, body in lines.items()
  }
  for name in _callers_first(entry, callers):
    for called, trips in callers[name]:
      times[called] += times[name] * trips
  total = {}
  for name, body in lines.items():
    for line in body:
      if times[name] and (found := _OPERATION.search(line)):
        kind, size = found.group(2), _size(found, line)
        number, amount = total.get(kind, (0, 0))
        total[kind] = number + times[name], amount + times[name] * size
  return total


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
  """Returns ({computation: its instructions}, name of the entry computation)."""
  lines, entry, name = {}, '', ''
  for line in text.splitlines():
    if found := _COMPUTATION.match(line):
      name = found.group(2)
      lines[name] = []
      entry = name if found.group(1) else entry
    elif name and ' = ' in line:
      lines[name].append(line)
  return lines, entry


def _calls(line: str, lines: dict[str, list[str]]) -> list[tuple[str, int]]:
  """Returns (computation, iterations) of each computation that an instruction calls."""
  number = _iterations(line, lines) if ' while(' in line else 1
  return [(called, number) for called in _CALLED.findall(line)]


def _iterations(line: str, lines: dict[str, list[str]]) -> int:
  """Returns how often a loop runs: its known_trip_count, else the constant in its condition (TPU programs)."""
  if trips := _TRIPS.search(line):
    return int(trips.group(1))
  condition = lines.get(found.group(1), []) if (found := _CONDITION.search(line)) else []
  constants = {match[1]: match[2] for text in condition if (match := _CONSTANT.search(text))}
  limits = [match.group(1) for text in condition if (match := _LESS.search(text))]
  return int(constants.get(limits[0], 1)) if limits else 1


def _callers_first(entry: str, callers: dict) -> list[str]:
  """Returns the reachable computations in topological order, callers before callees."""
  seen, order = set(), []

  def visit(name):
    if name in seen or name not in callers:
      return
    seen.add(name)
    for called, _ in callers[name]:
      visit(called)
    order.append(name)

  visit(entry)
  return order[::-1]


def _size(found: re.Match, line: str) -> int:
  """Returns the bytes of a collective's result; of a reduce-scatter, the bytes of its input."""
  sizes = [
    _BYTES[kind] * math.prod(map(int, filter(None, shape.split(',')))) for kind, shape in _SHAPE.findall(found.group(1))
  ]
  if found.group(3) and len(sizes) > 1:  # An asynchronous start lists its inputs and its outputs.
    sizes = [max(sum(sizes[: len(sizes) // 2]), sum(sizes[len(sizes) // 2 :]))]
  if found.group(2) == 'reduce-scatter':
    group = re.search(r'replica_groups=(?:\[\d+,(\d+)\]|\{\{([\d,]+)\})', line)
    if group:
      sizes = [sum(sizes) * (int(group.group(1)) if group.group(1) else group.group(2).count(',') + 1)]
  return sum(sizes)
