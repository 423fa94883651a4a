"""A local page and HTTP API on which images become objects; the command is `python -m lrm_jax.view`.

An image is uploaded and its object masked (uploads.py). A job (jobs.py) reconstructs it with a model of the menu
(menu.py) and writes its files (work.py). The planes stay on the device, so that views of them follow the mouse
(frames.py). server.py is the HTTP API that docs/view.md describes, and guard.py what it refuses.
"""

from lrm_jax import extras

extras.require('view', 'starlette', 'uvicorn', 'python_multipart', purpose='the page')
