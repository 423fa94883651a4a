"""Rigid alignment of point sets: a search over rotations, each refined by the iterative closest point method (ICP).

The plain statement is: from each start, iterate (nearest points, best rigid motion) with all points until it
converges, and keep the motion with the lowest Chamfer distance. Here all starts are refined together with few points,
the worse half is dropped several times, and only the best are refined with all points; bench/geometry.py compares both.
Sources: Besl & McKay 1992 (ICP); Kabsch 1976 (best rotation); Alexa 2022, Super-Fibonacci spirals (uniform rotations).
Legend: S starts, P points.
"""

import numpy as np
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from lrm_jax.evaluation.geometry_metrics import chamfer_half, nearest

_STAGES = ((400, 3), (400, 3), (400, 4), (400, 6))  # (points, iterations); after each stage, the worse half is dropped
_FINALISTS = 4
_MEDIUM = 2000  # points with which the finalists are compared
_ITERATIONS = 30  # of the finalists, at most, and of the winner with all points
_PLASTIC = 1.533751168755204288118041  # of the Super-Fibonacci spirals: the positive root of x^4 = x + 4


def rotations(count: int) -> np.ndarray:
  """Returns `count` rotation matrices [S, 3, 3], spread evenly over all rotations; the first is the identity."""
  s = np.arange(count) + 0.5
  radius, rest = np.sqrt(s / count), np.sqrt(1 - s / count)
  alpha, beta = 2 * np.pi * s / np.sqrt(2), 2 * np.pi * s / _PLASTIC
  x, y, z, w = radius * np.sin(alpha), radius * np.cos(alpha), rest * np.sin(beta), rest * np.cos(beta)
  matrices = Rotation.from_quat(np.stack([x, y, z, w], axis=-1)).as_matrix()
  return matrices @ matrices[0].T


def align(source: np.ndarray, target: np.ndarray, *, num_starts: int = 64, seed: int = 0) -> np.ndarray:
  """Returns the rigid motion [4, 4] that moves the points `source` [P, 3] onto `target` [Q, 3].

  Starts are the identity, where the points are, and `num_starts` rotations about the centre, with the centres of both
  sets together. The motion with the lowest Chamfer distance is returned.
  """
  rng = np.random.default_rng(seed)
  shuffled, tree = source[rng.permutation(len(source))], cKDTree(target)
  turn = rotations(num_starts)
  move = target.mean(axis=0) - source.mean(axis=0) @ turn.transpose(0, 2, 1)
  turn = np.concatenate([np.eye(3)[None], turn])
  move = np.concatenate([np.zeros((1, 3)), move])
  for points, iterations in _STAGES:
    error, turn, move = _icp(shuffled[:points], tree, turn, move, iterations)
    kept = np.argsort(error, kind='stable')[: max(_FINALISTS, len(error) // 2)]
    turn, move = turn[kept], move[kept]
  turn, move = turn[:_FINALISTS], move[:_FINALISTS]
  _, turn, move = _icp(shuffled[:_MEDIUM], tree, turn, move, _ITERATIONS)
  some = target[rng.permutation(len(target))[:_MEDIUM]]
  chamfer = [chamfer_half(nearest(shuffled[:_MEDIUM] @ r.T + t, some)[0]) for r, t in zip(turn, move)]
  best = int(np.argmin(chamfer))
  _, turn, move = _icp(source, tree, turn[best : best + 1], move[best : best + 1], _ITERATIONS)
  # ICP looks in one direction only: the place of the prediction itself may be better.
  candidates = [(np.eye(3), np.zeros(3)), (turn[0], move[0])]
  chamfer = [chamfer_half(nearest(source @ r.T + t, target)[0]) for r, t in candidates]
  motion = np.eye(4)
  motion[:3, :3], motion[:3, 3] = candidates[int(np.argmin(chamfer))]
  return motion


def best_motion(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns (rotations [S, 3, 3], translations [S, 3]) of least squared distance from source to target [S, P, 3]."""
  centre, goal = source.mean(axis=1, keepdims=True), target.mean(axis=1, keepdims=True)
  left, _, right = np.linalg.svd((source - centre).transpose(0, 2, 1) @ (target - goal))
  flip = np.ones((len(source), 1, 3))
  flip[:, 0, 2] = np.sign(np.linalg.det(left) * np.linalg.det(right))
  turn = right.transpose(0, 2, 1) @ (left * flip).transpose(0, 2, 1)
  return turn, (goal - centre @ turn.transpose(0, 2, 1))[:, 0]


def _icp(
  source: np.ndarray, tree: cKDTree, turn: np.ndarray, move: np.ndarray, iterations: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns (root mean squared distance [S], rotations [S, 3, 3], translations [S, 3]) after at most `iterations`.

  All starts are moved together; it ends early when no error falls by more than 1e-5 of itself.
  """
  target, last = np.asarray(tree.data), np.full(len(turn), np.inf)
  fixed = np.broadcast_to(source, (len(turn), *source.shape))
  for _ in range(iterations):
    moved = source @ turn.transpose(0, 2, 1) + move[:, None]
    distance, index = tree.query(moved.reshape(-1, 3), workers=-1)
    error = np.sqrt(np.mean(distance.reshape(len(turn), -1) ** 2, axis=1))
    if np.all(last - error <= 1e-5 * error):
      break
    last = error
    turn, move = best_motion(fixed, target[index].reshape(moved.shape))
  return last, turn, move
