"""Third-party weights: files are read without executing code, and name tables convert them exactly both ways."""

import os
from pathlib import Path
import pickle
import zipfile

from flax import nnx, traverse_util
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lrm_jax.errors import InputError
from lrm_jax.models.dinov2 import DINOv2
from lrm_jax.models.encoder import ViT
from lrm_jax.training import loop as train_lib
from lrm_jax.weights import dino, files, pytorch, tables

GOLDEN = Path(__file__).parent / 'golden/openlrm_dinov1.safetensors'
SIZES = dict(patch_size=8, width=24, depth=3, num_heads=2, table_size=3)


def vit(**sizes):
  return ViT(**sizes, sinusoidal_positions=False, remat='none', dtype=jnp.float32, rngs=nnx.Rngs(0))


def parameters(model):
  return traverse_util.flatten_dict(nnx.to_pure_dict(nnx.state(model, nnx.Param)), sep='/')


def shapes(model):
  return {path: array.shape for path, array in parameters(model).items()}


def with_parameters(model, arrays):
  state = nnx.state(model, nnx.Param)
  arrays = {path: jnp.asarray(array) for path, array in arrays.items()}
  nnx.replace_by_pure_dict(state, traverse_util.unflatten_dict(arrays, sep='/'))
  nnx.update(model, state)
  return model


@pytest.fixture
def random_vit(rng):
  model = vit(**SIZES)
  return with_parameters(
    model, {path: rng.normal(size=shape).astype(np.float32) for path, shape in shapes(model).items()}
  )


def test_tokens_match_hugging_face_vit():
  golden = load_file(GOLDEN)
  prefix = 'state/encoder.model.'
  tensors = {name.removeprefix(prefix): x for name, x in golden.items() if name.startswith(prefix)}
  model = vit(patch_size=8, width=64, depth=2, num_heads=4, table_size=6)
  rows, found_prefix = dino.recognise(tensors)
  assert rows is dino.HUGGING_FACE and found_prefix == ''
  with_parameters(model, tables.load(rows, tensors, shapes(model)))
  tokens = model(jnp.transpose(golden['in/image'], (0, 2, 3, 1)))
  np.testing.assert_allclose(tokens, golden['out/hfnew_encoder_tokens'], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('rows', [dino.OFFICIAL, dino.HUGGING_FACE], ids=['official', 'hugging_face'])
def test_saving_and_loading_is_exact(rows, random_vit):
  before = parameters(random_vit)
  tensors = dict(tables.save(rows, before))
  # The table covers all parameters, with distinct names.
  assert before.keys() <= {row.ours for row in rows}
  assert sum(x.size for x in tensors.values()) == sum(x.size for x in before.values())
  after = tables.load(rows, tensors, shapes(random_vit))
  assert after.keys() == before.keys()
  for path, array in before.items():
    np.testing.assert_array_equal(after[path], array)


def test_patch_embedding_equals_strided_convolution(rng):
  """The reference is PyTorch's layout: a kernel [D, 3, p, q] with stride p on images [B, 3, H, W]."""
  kernel, image = rng.normal(size=(5, 3, 4, 4)).astype(np.float32), rng.uniform(size=(2, 12, 12, 3)).astype(np.float32)
  truth = jax.lax.conv_general_dilated(jnp.transpose(image, (0, 3, 1, 2)), kernel, (4, 4), 'VALID', precision='highest')
  model = vit(**SIZES | dict(patch_size=4, width=4))
  patches = image.reshape(2, 3, 4, 3, 4, 3).transpose(0, 1, 3, 2, 4, 5).reshape(2, 9, 48)
  flat = patches @ tables.PATCHES.to_ours(kernel)
  np.testing.assert_allclose(flat, truth.reshape(2, 5, 9).swapaxes(1, 2), rtol=1e-4, atol=1e-5)
  assert model.patch_embedding.kernel.shape == (48, 4)


@pytest.mark.parametrize(
  'rows, prefix',
  [
    (dino.OFFICIAL, ''),
    (dino.OFFICIAL, 'teacher.backbone.'),
    (dino.HUGGING_FACE, 'encoder.model.'),
    (dino.HUGGING_FACE, ''),
  ],
)
def test_name_prefixes_are_detected(rows, prefix, random_vit, tmp_path):
  tensors = {prefix + name: x for name, x in tables.save(rows, parameters(random_vit))}
  tensors |= {prefix + 'pooler.dense.weight': np.ones((24, 24), np.float32)}  # Unused by the tokens, so ignored.
  if prefix.startswith('teacher'):
    tensors |= {name.replace('teacher', 'student'): x * 0 for name, x in tensors.items()}
  save_file(tensors, tmp_path / 'vit.safetensors')
  loaded = dino.load(tmp_path / 'vit.safetensors', shapes(random_vit))
  for path, array in parameters(random_vit).items():
    np.testing.assert_array_equal(loaded[path], array)


def test_error_lists_all_mismatched_tensors(random_vit, tmp_path):
  tensors = dict(tables.save(dino.OFFICIAL, parameters(random_vit)))
  tensors['norm.weight'] = tensors['norm.weight'][:7]
  tensors['extra'] = np.zeros((1, 5), np.float32)
  del tensors['blocks.1.mlp.fc1.bias'], tensors['pos_embed']
  save_file(tensors, tmp_path / 'vit.safetensors')
  with pytest.raises(ValueError) as info:
    dino.load(tmp_path / 'vit.safetensors', shapes(random_vit))
  text = str(info.value)
  for fragment in (
    'vit.safetensors',
    'pos_embed is missing',
    'blocks.1.mlp.fc1.bias is missing',
    'extra (1, 5) is unexpected',
    'norm.weight converts to shape (7,), but norm/scale of the model has shape (24,)',
  ):
    assert fragment in text, text


def test_file_without_vit_is_rejected(tmp_path):
  save_file({'x': np.zeros(3, np.float32)}, tmp_path / 'x.safetensors')
  with pytest.raises(ValueError, match='does not contain a ViT'):
    dino.load(tmp_path / 'x.safetensors', {})


def test_pytorch_file_is_read_without_pytorch():
  tensors = files.read(Path(__file__).parent / 'pytorch/tensors.pth')
  expected = {
    'plain': np.arange(6.0).reshape(2, 3),
    'shared': np.arange(4.0, 12.0).reshape(4, 2),
    'turned': np.arange(6.0).reshape(2, 3).T,
    'half': np.array([1.5, -2.0]),
    'count': np.array(7),
    'parameter': np.full((2, 2), 0.25),
    'empty': np.zeros((0, 3)),
  }
  assert tensors.keys() == {f'teacher.{name}' for name in expected}
  for name, value in expected.items():
    np.testing.assert_array_equal(np.asarray(tensors[f'teacher.{name}']).astype(np.float64), value)
  assert tensors['teacher.half'].dtype == ml_dtypes.bfloat16 and tensors['teacher.count'].dtype == np.int64


class Malicious:
  """Creates a directory when it is unpickled."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return os.mkdir, (self.path,)


def test_malicious_pickle_is_rejected_without_being_executed(tmp_path):
  trap = str(tmp_path / 'trap')
  with zipfile.ZipFile(tmp_path / 'evil.pth', 'w') as archive:
    archive.writestr('archive/data.pkl', pickle.dumps({'x': Malicious(trap)}))
  with pytest.raises(ValueError, match='calls .*mkdir'):
    files.read(tmp_path / 'evil.pth')
  assert not os.path.exists(trap)
  pickle.loads(pickle.dumps(Malicious(trap)))
  assert os.path.exists(trap)  # The standard unpickler does execute it.


@pytest.mark.parametrize(
  'offset, shape, strides',
  [(0, (3,), (3,)), (7, (1,), (1,)), (-1, (1,), (1,)), (0, (2, 2), (-4, 5)), (0, (2, -1), (1, 1)), (0, (2,), (1, 1))],
)
def test_view_beyond_storage_is_rejected(offset, shape, strides):
  with pytest.raises(pickle.UnpicklingError, match='exceeds its storage of 6 elements'):
    pytorch.view(np.arange(6.0), offset, shape, strides)


def test_storage_shorter_than_declared_is_rejected(tmp_path):
  whole = (Path(__file__).parent / 'pytorch/tensors.pth').read_bytes()
  with zipfile.ZipFile(Path(__file__).parent / 'pytorch/tensors.pth') as archive:
    sizes = {name: archive.getinfo(name) for name in archive.namelist() if '/data/' in name}
    contents = {name: archive.read(name) for name in archive.namelist()}
  member = max(sizes.values(), key=lambda info: info.file_size)
  with zipfile.ZipFile(tmp_path / 'lying.pth', 'w') as archive:
    for name, content in contents.items():
      archive.writestr(name, content[:4] if name == member.filename else content)
  lying = bytearray((tmp_path / 'lying.pth').read_bytes())
  entry = lying.rindex(member.filename.encode()) - 46  # The member's entry in the zip file's central directory.
  lying[entry + 24 : entry + 28] = member.file_size.to_bytes(4, 'little')
  (tmp_path / 'lying.pth').write_bytes(lying)
  assert len(lying) < len(whole)
  with pytest.raises(ValueError, match='damaged'):
    for tensor in files.read(tmp_path / 'lying.pth').values():
      np.asarray(tensor)


@pytest.mark.parametrize('registers', [4, 0])
@pytest.mark.parametrize('rows', [dino.OFFICIAL, dino.HUGGING_FACE_DINOV2], ids=['official', 'hugging_face'])
def test_dinov2_is_loaded_with_both_naming_schemes(rows, registers, rng, tmp_path):
  model = DINOv2(**SIZES, num_registers=registers, remat='none', dtype=jnp.float32, rngs=nnx.Rngs(0))
  expected = {path: rng.normal(size=shape).astype(np.float32) for path, shape in shapes(model).items()}
  tensors = dict(tables.save(rows, expected))
  assert sum(x.size for x in tensors.values()) == sum(x.size for x in expected.values())
  mask = 'mask_token' if rows is dino.OFFICIAL else 'embeddings.mask_token'
  save_file(tensors | {mask: np.zeros((1, 24), np.float32)}, tmp_path / 'vit.safetensors')
  for path, array in dino.load(tmp_path / 'vit.safetensors', shapes(model)).items():
    np.testing.assert_array_equal(array, expected[path])
  sizes = dict(encoder='dinov2', patch_size=8, encoder_width=24, encoder_depth=3, encoder_table_size=3)
  if registers:
    sizes['encoder_registers'] = 4
  assert dino.sizes(tensors, 'the file') == sizes
  with pytest.raises(ValueError, match="contains a 'dinov2' encoder, but config.model.encoder is 'dino'"):
    dino.load(tmp_path / 'vit.safetensors', shapes(vit(**SIZES)))


@pytest.mark.parametrize('rows', [dino.OFFICIAL, dino.HUGGING_FACE_DINOV2], ids=['official', 'hugging_face'])
def test_first_blocks_of_a_deeper_encoder_are_loaded_on_request(rows, rng, tmp_path):
  def model(depth):
    sizes = {**SIZES, 'depth': depth}
    kwargs = dict(num_registers=0, remat='none', dtype=jnp.float32)
    return shapes(nnx.eval_shape(lambda: DINOv2(**sizes, **kwargs, rngs=nnx.Rngs(0))))

  deep = {path: rng.normal(size=shape).astype(np.float32) for path, shape in model(12).items()}
  save_file(dict(tables.save(rows, deep)), tmp_path / 'vit.safetensors')
  wanted = model(2)
  with pytest.raises(InputError, match='has 12 blocks, but config.model.encoder_depth is 2: set it to 12, or add'):
    dino.load(tmp_path / 'vit.safetensors', wanted)
  loaded = dino.load(tmp_path / 'vit.safetensors', wanted, first_blocks=True)
  assert loaded.keys() == wanted.keys()
  for path, array in loaded.items():
    np.testing.assert_array_equal(array, deep[path][:2] if path.startswith('blocks/') else deep[path])


def test_registers_affect_tokens_but_are_not_returned(rng):
  model = DINOv2(**SIZES, num_registers=4, remat='none', dtype=jnp.float32, rngs=nnx.Rngs(0))
  with_parameters(model, {path: rng.normal(size=shape).astype(np.float32) for path, shape in shapes(model).items()})
  image = jnp.asarray(rng.uniform(size=(1, 32, 32, 3)), jnp.float32)
  tokens = model(image)
  assert tokens.shape == (1, 17, 24)
  model.registers[...] = -model.registers[...]
  assert np.abs(model(image) - tokens).max() > 1e-3


def test_damaged_and_unknown_files_are_rejected(tmp_path):
  whole = (Path(__file__).parent / 'pytorch/tensors.pth').read_bytes()
  (tmp_path / 'cut.pth').write_bytes(whole[: len(whole) // 2])
  (tmp_path / 'text.bin').write_text('no tensors')
  (tmp_path / 'cut.safetensors').write_bytes(b'\x08\0\0\0\0\0\0\0{"a":')
  with zipfile.ZipFile(tmp_path / 'other.pth', 'w') as archive:
    archive.writestr('readme', 'hello')
  for name in ('cut.pth', 'text.bin', 'cut.safetensors', 'other.pth'):
    with pytest.raises(ValueError, match=name):
      files.read(tmp_path / name)
  with pytest.raises(InputError, match='nothing.pth'):
    files.read(tmp_path / 'nothing.pth')


@pytest.mark.slow
def test_training_starts_from_given_encoder_weights(tiny_config, tmp_path, rng):
  config = tiny_config
  trainer = train_lib.Trainer(config, lpips=None)
  encoder_shapes = {
    path: leaf.shape
    for path, leaf in traverse_util.flatten_dict(trainer.abstract_state['params']['encoder'], sep='/').items()
  }
  arrays = {path: rng.normal(size=shape).astype(np.float32) for path, shape in encoder_shapes.items()}
  save_file(dict(tables.save(dino.OFFICIAL, arrays)), tmp_path / 'vit.safetensors')
  config.encoder_weights = str(tmp_path / 'vit.safetensors')
  weights, _ = trainer.read_weights()
  state = trainer.first_state(weights)
  for path, array in traverse_util.flatten_dict(state['params']['encoder'], sep='/').items():
    np.testing.assert_array_equal(array, arrays[path])
  assert np.isfinite(train_lib.train(config, tmp_path / 'run')['eval_psnr'])
  config.encoder_weights = str(tmp_path / 'none.safetensors')
  config.num_train_steps = 4
  train_lib.train(config, tmp_path / 'run')  # Resuming does not need the encoder weights.
  with pytest.raises(InputError, match='none.safetensors'):
    train_lib.train(config, tmp_path / 'other')
  assert not (tmp_path / 'other').exists()
