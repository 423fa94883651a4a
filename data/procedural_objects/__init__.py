"""Procedural objects: makers that turn random numbers into watertight, textured solids, and their worker."""
