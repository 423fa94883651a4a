"""Run directories, local or in a cloud store: paths, the lock on a run, checkpoints."""
