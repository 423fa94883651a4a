"""Evaluation: image metrics, novel views of held-out objects, and baselines that learn nothing."""
