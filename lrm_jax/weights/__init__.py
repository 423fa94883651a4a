"""Loads and saves third-party weights with two-way name tables, and resolves model sources such as `hf://owner/name`."""
