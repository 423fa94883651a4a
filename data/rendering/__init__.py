"""Renders training views: presets of cameras and lights, two engines with one interface, and a pool of workers."""
