"""Flax modules: encoders, decoders, NeRF and ray marcher, and the models that they make up."""
