"""CLIP's image encoder: equal to the transformers library, both naming schemes, the metric, files that do not fit."""

import json
from pathlib import Path
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest
from safetensors.numpy import save_file

from lrm_jax import evaluate
from lrm_jax.errors import InputError
from lrm_jax.evaluation import results
from lrm_jax.models import clip
from lrm_jax.weights.clip import load_clip

SIZES = dict(
  hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=3, image_size=32, patch_size=8
)
EMBEDDING = 10


def tensors(rng):
  """Returns random weights of a tiny encoder with Hugging Face's names."""
  width, hidden, patch = SIZES['hidden_size'], SIZES['intermediate_size'], SIZES['patch_size']
  shapes = {
    'embeddings.class_embedding': (width,),
    'embeddings.patch_embedding.weight': (width, 3, patch, patch),
    'embeddings.position_embedding.weight': (1 + (SIZES['image_size'] // patch) ** 2, width),
  }
  for norm in (
    'pre_layrnorm',
    'post_layernorm',
    *(f'encoder.layers.{i}.layer_norm{k}' for i in (0, 1) for k in (1, 2)),
  ):
    shapes |= {f'{norm}.weight': (width,), f'{norm}.bias': (width,)}
  for i in (0, 1):
    layer = f'encoder.layers.{i}'
    linear = {f'self_attn.{part}_proj': (width, width) for part in ('q', 'k', 'v', 'out')}
    for name, shape in {**linear, 'mlp.fc1': (hidden, width), 'mlp.fc2': (width, hidden)}.items():
      shapes |= {f'{layer}.{name}.weight': shape, f'{layer}.{name}.bias': shape[:1]}
  result = {f'vision_model.{name}': shape for name, shape in shapes.items()} | {
    'visual_projection.weight': (EMBEDDING, width)
  }
  return {name: (0.2 * rng.normal(size=shape)).astype(np.float32) for name, shape in result.items()}


def openai_names(weights):
  """Returns the same weights with OpenAI's names."""
  result = {}
  parts = (
    ('vision_model.embeddings.class_embedding', 'visual.class_embedding'),
    ('vision_model.embeddings.patch_embedding', 'visual.conv1'),
    ('vision_model.embeddings.position_embedding.weight', 'visual.positional_embedding'),
    ('vision_model.pre_layrnorm', 'visual.ln_pre'),
    ('vision_model.post_layernorm', 'visual.ln_post'),
    ('vision_model.encoder.layers.', 'visual.transformer.resblocks.'),
    ('.layer_norm', '.ln_'),
    ('self_attn.out_proj', 'attn.out_proj'),
    ('mlp.fc1', 'mlp.c_fc'),
    ('mlp.fc2', 'mlp.c_proj'),
  )
  for name, tensor in weights.items():
    for theirs, openai in parts:
      name = name.replace(theirs, openai)
    result[name] = tensor
  for i in (0, 1):
    for kind in ('weight', 'bias'):
      attention = f'visual.transformer.resblocks.{i}.'
      qkv = [result.pop(f'{attention}self_attn.{part}_proj.{kind}') for part in ('q', 'k', 'v')]
      result[f'{attention}attn.in_proj_{kind}'] = np.concatenate(qkv)
  result['visual.proj'] = np.ascontiguousarray(result.pop('visual_projection.weight').T)
  return result | {'logit_scale': np.float32(1)[None], 'transformer.resblocks.0.ln_1.bias': np.zeros(4, np.float32)}


def write(folder, weights, **config):
  """Writes a directory in Hugging Face's layout."""
  folder.mkdir()
  save_file(weights, folder / 'model.safetensors')
  vision = {'num_attention_heads': SIZES['num_attention_heads'], **config}
  (folder / 'config.json').write_text(json.dumps({'model_type': 'clip', 'vision_config': vision}))
  return folder


@pytest.fixture
def weights(rng):
  return tensors(rng)


@pytest.fixture
def images(rng):
  return jnp.asarray(rng.uniform(size=(3, 32, 32, 3)), jnp.float32)


def test_both_naming_schemes_give_the_same_vectors(weights, images, tmp_path):
  ours = load_clip(write(tmp_path / 'hugging_face', weights)).embed(images)
  assert ours.shape == (3, EMBEDDING) and np.std(ours) > 0.1
  other = load_clip(write(tmp_path / 'openai', openai_names(weights)) / 'model.safetensors').embed(images)
  np.testing.assert_array_equal(ours, other)


def test_similarity_is_one_for_equal_images_and_symmetric(weights, images, tmp_path):
  network = load_clip(write(tmp_path / 'clip', weights))
  np.testing.assert_allclose(network(images, images), 1, atol=1e-6)
  values = jax.jit(network)(images, images[::-1])
  np.testing.assert_allclose(values, values[::-1], atol=1e-6)
  assert values[0] < 0.9999


def test_images_are_resized_as_pillow_does(weights, rng, tmp_path):
  network = load_clip(write(tmp_path / 'clip', weights))
  for size in (20, 64):
    image = rng.uniform(size=(size, size)).astype(np.float32)
    expected = np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BICUBIC))
    found = network.resized(jnp.repeat(jnp.asarray(image)[None, ..., None], 3, axis=-1))[0, ..., 0]
    np.testing.assert_allclose(found, np.clip(expected, 0, 1), atol=1e-5)


def test_quick_gelu():
  x = np.linspace(-3, 3, 7, dtype=np.float32)
  np.testing.assert_allclose(clip.quick_gelu(jnp.asarray(x)), x / (1 + np.exp(-1.702 * x)), rtol=1e-5)


def without(name):
  return lambda weights: {key: value for key, value in weights.items() if key != name}


@pytest.mark.parametrize(
  'change, message',
  [
    (without('vision_model.embeddings.class_embedding'), 'has no image encoder of CLIP'),
    (without('visual_projection.weight'), 'visual_projection.weight is missing'),
    (without('vision_model.encoder.layers.1.mlp.fc2.bias'), r'layers.1.mlp.fc2.bias is missing'),
    (lambda weights: weights | {'more': np.zeros(2, np.float32)}, r'more \(2,\) is unexpected'),
    (
      lambda weights: weights | {'vision_model.embeddings.position_embedding.weight': np.zeros((16, 24), np.float32)},
      '16 positions, which are not a square and one',
    ),
  ],
)
def test_files_that_do_not_fit_are_refused(weights, tmp_path, change, message):
  with pytest.raises(InputError, match=message):
    load_clip(write(tmp_path / 'clip', change(weights)))


def test_configurations_that_do_not_fit_are_refused(weights, tmp_path):
  with pytest.raises(InputError, match="hidden_act = 'relu' must be one of quick_gelu, gelu"):
    load_clip(write(tmp_path / 'a', weights, hidden_act='relu'))
  with pytest.raises(InputError, match='5 heads do not divide the width 24'):
    load_clip(write(tmp_path / 'b', weights, num_attention_heads=5))
  with pytest.raises(InputError, match='has none of model.safetensors'):
    load_clip(tmp_path)


@pytest.mark.slow
def test_evaluation_reports_the_similarity(weights, run_directory, dataset, tmp_path, monkeypatch, capsys):
  folder, out = write(tmp_path / 'clip', weights), tmp_path / 'out'
  words = [f'--checkpoint={run_directory}', f'--data={dataset}', '--size=16', '--no_baselines', f'--out={out}']
  monkeypatch.setattr(sys, 'argv', ['evaluate', *words, f'--clip={folder}'])
  evaluate.main()
  document = results.read(out)
  row = document['sections'][0]['rows']['model']
  assert list(row['summary'])[:3] == ['psnr', 'ssim', 'clip_similarity']
  assert -1 < row['summary']['clip_similarity']['mean'] < 1
  assert document['clip'].startswith('clip: ViT of 2 x 24, patches of 8 px, 32 px; SHA-256')
  assert 'CLIP: clip: ViT of 2 x 24' in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize('activation', clip.ACTIVATIONS)
def test_vectors_equal_the_transformers_library(images, tmp_path, activation):
  torch = pytest.importorskip('torch')
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    transformers = pytest.importorskip('transformers')
  config = transformers.CLIPVisionConfig(**SIZES, projection_dim=EMBEDDING, hidden_act=activation)
  torch.manual_seed(0)
  model = transformers.CLIPVisionModelWithProjection(config).eval()
  with torch.no_grad():
    for parameter in model.parameters():
      parameter += 0.2 * torch.randn_like(parameter)
    pixels = (images - np.array(clip.IMAGE_MEAN)) / np.array(clip.IMAGE_STD)
    expected = model(torch.tensor(pixels.transpose(0, 3, 1, 2), dtype=torch.float32)).image_embeds.numpy()
  model.save_pretrained(tmp_path / 'clip')
  (tmp_path / 'torch').mkdir()
  torch.save(model.state_dict(), tmp_path / 'torch' / 'pytorch_model.bin')
  (tmp_path / 'torch' / 'config.json').write_text((tmp_path / 'clip' / 'config.json').read_text())
  for folder in (tmp_path / 'clip', tmp_path / 'torch'):
    found = load_clip(Path(folder)).embed(images)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
