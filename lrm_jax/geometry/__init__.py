"""Geometry without learned parameters: cameras, rays, volume rendering and images."""
