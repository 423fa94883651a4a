"""A trained model in use: an image in; planes, views, a mesh, a video out."""
