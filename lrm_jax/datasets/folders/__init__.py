"""Folders of views on disk -> records, in one convention (lrm_jax/geometry/cameras.py), whoever wrote them.

A record is a dict: uid, views (V encoded RGBA pictures, square), camera_to_world [V, 4, 4], intrinsics [V, 4] (divided by
the picture's size), object_to_world [4, 4] (NaN where it is not known); depth (V encoded pictures) where there is any.
"""

from lrm_jax.datasets.folders.layouts import LAYOUTS, find, read, recognise

__all__ = ['LAYOUTS', 'find', 'read', 'recognise']
