"""Devices and processes: how arrays are sharded, who takes part, and what suits each backend."""
