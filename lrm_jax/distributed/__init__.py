"""Devices and processes: sharding, multi-process setup, accelerator specifications, and settings per backend."""
