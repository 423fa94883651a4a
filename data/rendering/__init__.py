"""Rendering of training views: presets of cameras and light, two engines behind one interface, the work on one object."""
