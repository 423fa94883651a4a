"""Rotates the text of OBJ files."""

import re

import numpy as np


def rotated(text: str, rotation: np.ndarray) -> str:
  """Returns the text of an OBJ file with its vertices and normals multiplied by a rotation [3, 3]."""
  if np.array_equal(rotation, np.eye(3)):
    return text

  def turn(match):
    vector = rotation @ np.array([float(number) for number in match[2].split()[:3]])
    return f'{match[1]} {vector[0]:.7g} {vector[1]:.7g} {vector[2]:.7g}'

  return re.sub(r'(?m)^(vn?)\s+([^\r\n]+)', turn, text)
