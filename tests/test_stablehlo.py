"""Exported StableHLO programs run in a process without lrm_jax and give the same planes and views."""

import os
import subprocess
import sys

import numpy as np
import pytest

import lrm_jax
from lrm_jax.export import export

_WITHOUT_THE_LIBRARY = """
import json, sys
import numpy as np
from jax import export
from safetensors.numpy import load_file

weights, about = load_file('weights.safetensors'), json.load(open('model.json'))
camera, lens = np.float32(about['camera_to_world'])[None], np.float32(about['intrinsics'])[None]
encode, render = (export.deserialize(bytearray(open(name + '.bin', 'rb').read())) for name in ('encode', 'render'))
planes = encode.call(weights, np.load('image.npy')[None], camera, lens)
pixels = render.call(weights, planes, camera[:, None], lens[:, None])
assert not [name for name in sys.modules if name.startswith(('lrm_jax', 'flax'))]
np.savez('result.npz', planes=planes, **pixels)
"""


@pytest.mark.slow
def test_programs_run_without_the_library(tmp_path):
  out = export('quickstart', tmp_path / 'exported', format='stablehlo')
  model = lrm_jax.from_pretrained('quickstart')
  image = np.random.default_rng(0).random((model.image_size, model.image_size, 3), np.float32)
  np.save(out / 'image.npy', image)
  environment = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
  result = subprocess.run(
    [sys.executable, '-c', _WITHOUT_THE_LIBRARY], cwd=out, env=environment, capture_output=True, text=True, check=False
  )
  assert result.returncode == 0, result.stderr
  found = np.load(out / 'result.npz')
  planes = model.encode(image[None])
  np.testing.assert_allclose(found['planes'], planes, atol=1e-4)
  expected = model.render(planes, model.input_camera[None, None], model.intrinsics[None, None], 128)
  for name in ('color', 'depth', 'opacity'):
    np.testing.assert_allclose(found[name], getattr(expected, name), atol=1e-3)
