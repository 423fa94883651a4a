"""Reads folders of views in several layouts into records of one convention (see lrm_jax/geometry/cameras.py).

A record is a dict: uid, views (V encoded RGBA images, square), camera_to_world [V, 4, 4], intrinsics [V, 4] (divided by
the size of the image), object_to_world [4, 4] (NaN if unknown), and optionally depth (V encoded images) and
surface_points [P, 3].
"""

from lrm_jax.datasets.folders.layouts import LAYOUTS, find, read, recognise

__all__ = ['LAYOUTS', 'find', 'read', 'recognise']
