"""The maths without a model: cameras, rays, volume rendering, images."""
