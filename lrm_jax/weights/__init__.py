"""Third-party weights, by tables that are read in both directions, and where a model comes from."""
