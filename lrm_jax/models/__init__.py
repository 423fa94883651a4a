"""Flax modules: image encoders, triplane decoders, the NeRF, the ray marcher, and the models built from them."""
