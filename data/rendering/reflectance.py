"""The share of white, even light that a surface reflects without colouring it, as Cycles' Principled BSDF does.

Measured by bench/reflectance.py in Blender 4.5: flat patches in an environment of brightness 1. Rows are the cosine of
the angle between the normal and the direction of view, 0, 0.1 ... 1; columns the roughness, 0, 0.1 ... 1.
"""

import numpy as np

# A black dielectric with an index of refraction of 1.5.
_DIELECTRIC = (
  np.array(
    [
      [9059, 8785, 6543, 4221, 3001, 2216, 1618, 1359, 1077, 891, 769],
      [5716, 5606, 4645, 3334, 2366, 1749, 1300, 1038, 829, 685, 585],
      [3389, 3370, 3133, 2516, 1836, 1368, 1034, 801, 644, 530, 447],
      [2078, 2076, 2006, 1766, 1412, 1072, 822, 650, 522, 427, 355],
      [1325, 1324, 1314, 1224, 1046, 847, 669, 538, 444, 354, 289],
      [892, 893, 891, 870, 795, 678, 558, 459, 374, 304, 245],
      [645, 646, 648, 648, 618, 555, 477, 398, 327, 264, 211],
      [509, 510, 512, 516, 505, 471, 417, 355, 293, 236, 186],
      [439, 439, 441, 443, 439, 418, 378, 325, 268, 214, 166],
      [408, 408, 409, 409, 404, 387, 354, 305, 251, 197, 151],
      [400, 400, 399, 397, 390, 373, 341, 294, 239, 185, 138],
    ]
  )
  / 1e4
)
# A metal of reflectance 0.
_METAL_0 = (
  np.array(
    [
      [9565, 9247, 6841, 4245, 2747, 1951, 1307, 892, 620, 507, 353],
      [5905, 5776, 4717, 3235, 2129, 1414, 946, 630, 438, 323, 239],
      [3277, 3252, 2972, 2272, 1544, 983, 653, 425, 293, 196, 150],
      [1681, 1675, 1608, 1356, 992, 657, 428, 278, 186, 125, 85],
      [778, 778, 770, 717, 569, 405, 273, 177, 115, 77, 50],
      [312, 315, 322, 323, 290, 226, 159, 106, 70, 46, 31],
      [102, 103, 111, 124, 126, 110, 84, 59, 40, 26, 17],
      [24, 25, 28, 38, 45, 46, 39, 29, 21, 14, 9],
      [3, 3, 4, 8, 12, 15, 15, 12, 9, 7, 5],
      [0, 0, 0, 1, 2, 4, 4, 4, 3, 2, 2],
      [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ]
  )
  / 1e4
)
# A metal of reflectance 0.5.
_METAL_HALF = (
  np.array(
    [
      [9782, 9592, 8227, 6926, 6422, 5909, 5653, 5317, 5080, 4994, 4971],
      [7952, 7881, 7261, 6437, 5856, 5473, 5198, 4966, 4726, 4516, 4312],
      [6638, 6630, 6445, 5994, 5468, 5149, 4877, 4677, 4429, 4145, 3844],
      [5840, 5839, 5779, 5598, 5257, 4937, 4690, 4452, 4189, 3880, 3566],
      [5389, 5378, 5382, 5284, 5057, 4828, 4578, 4312, 4028, 3660, 3283],
      [5156, 5157, 5149, 5112, 4973, 4755, 4508, 4234, 3908, 3536, 3125],
      [5051, 5052, 5047, 5021, 4924, 4730, 4479, 4178, 3822, 3418, 2983],
      [5012, 5013, 5008, 4987, 4908, 4731, 4475, 4149, 3760, 3325, 2866],
      [5002, 5002, 4997, 4979, 4908, 4744, 4487, 4138, 3716, 3248, 2768],
      [5000, 5000, 4995, 4980, 4916, 4763, 4509, 4141, 3685, 3186, 2684],
      [5000, 4999, 4996, 4977, 4924, 4787, 4535, 4152, 3664, 3129, 2610],
    ]
  )
  / 1e4
)


def average_reflectance(reflectance):
  """Returns the mean of Schlick's reflectance over all directions, for a reflectance at normal incidence."""
  return reflectance + (1 - reflectance) / 21


def metal(reflectance, at_0, white, white_average):
  """Returns the share of light that a metal reflects, with multiple reflections between its facets.

  `at_0` is the share for reflectance 0, `white` that of a single reflection for reflectance 1, and `white_average` the
  mean of `white` over all directions. Source: Kulla and Conty, Revisiting Physically Based Shading, SIGGRAPH 2017.
  """
  mean = average_reflectance(reflectance)
  more = mean * white_average / (1 - mean * (1 - white_average))
  return (at_0 + (white - at_0) * reflectance) * (1 + more * (1 - white) / white)


def table() -> np.ndarray:
  """Returns [cosine, roughness, (dielectric, at_0, white, white_average)], with the arguments of `metal`.

  `white` is what makes a metal of reflectance 0.5 as bright as it was measured.
  """
  cosines = np.linspace(0, 1, 11)[:, None]
  average = np.ones((1, 11))
  for _ in range(30):
    low, high = np.maximum(_METAL_0, 1e-3), np.ones((11, 11))
    for _ in range(20):
      white = (low + high) / 2
      darker = metal(0.5, _METAL_0, white, average) < _METAL_HALF
      low, high = np.where(darker, white, low), np.where(darker, high, white)
    average = np.trapezoid(2 * cosines * white, cosines, axis=0)[None]
  return np.stack([_DIELECTRIC, _METAL_0, white, np.broadcast_to(average, white.shape)], axis=-1)
