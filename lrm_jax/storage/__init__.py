"""Run directories, local or in cloud storage: paths, locks and checkpoints."""
