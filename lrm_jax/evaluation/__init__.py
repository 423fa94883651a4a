"""How good a model is: image metrics, novel views of held-out objects, baselines that learn nothing."""
