"""Inference with a trained model: image preparation, planes, views, meshes and videos."""
