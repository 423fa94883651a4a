"""Run directories and datasets can be local, file:// or in cloud storage."""

import fsspec
from fsspec.implementations.memory import MemoryFileSystem
import numpy as np
import pytest
import safetensors.numpy

from conftest import make_tiny_config
from lrm_jax import extras
from lrm_jax.datasets.records import open_split
from lrm_jax.errors import InputError
from lrm_jax.storage import checkpoint, lock, paths
from lrm_jax.training import loop, metric_writer, trackers
from lrm_jax.weights import files, vgg


def test_local_paths_become_absolute(monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  assert str(paths.directory('runs/a')) == f'{tmp_path}/runs/a'
  assert str(paths.directory('file:///data/run')) == '/data/run' and paths.is_local(paths.directory('/x'))


@pytest.mark.parametrize(
  'path, message',
  [
    ('file://data/run', 'three slashes'),
    ('http://host/run', 'http://host/run: a directory must be local or begin with gs://, s3://'),
    ('az://a/b', 'az://a/b'),
  ],
)
def test_invalid_directories_raise(path, message):
  with pytest.raises(ValueError, match=message):
    paths.directory(path)


@pytest.mark.parametrize('scheme', ['gs', 's3'])
def test_missing_storage_libraries_are_reported_first(dataset, monkeypatch, scheme):
  monkeypatch.setattr(extras, 'installed', lambda module: False)
  with pytest.raises(
    ValueError, match=rf'{scheme}://bucket/run: {scheme}:// needs packages .*pip install .*\[{scheme}\]'
  ):
    loop.train(make_tiny_config(dataset), f'{scheme}://bucket/run')


def test_datasets_on_s3_raise(monkeypatch):
  monkeypatch.setattr(extras, 'installed', lambda module: True)
  with pytest.raises(ValueError, match='ArrayRecord cannot read s3://'):
    open_split('s3://bucket/data', 'train')
  assert not paths.is_local(paths.directory('gs://bucket/run'))


def test_dataset_can_be_a_file_url(dataset):
  assert len(open_split(f'file://{dataset}', 'train')) == 4


class Store(MemoryFileSystem):
  """An in-memory store that replaces Google Cloud Storage."""

  protocol = ('gs',)
  store, pseudo_dirs = {}, ['']

  @classmethod
  def _strip_protocol(cls, path):
    return '/' + str(path).removeprefix('gs://').strip('/')


@pytest.fixture
def store(monkeypatch):
  """Makes gs:// an in-memory store."""
  monkeypatch.setattr(extras, 'installed', lambda module: True)
  for name in ('gs', 'gcs'):
    fsspec.register_implementation(name, Store, clobber=True)


def test_metrics_and_configuration_are_written_to_cloud_storage(dataset, store, monkeypatch):
  """Everything except the checkpoints (written by Orbax) and TensorBoard's events (written by tensorboardX)."""

  class Records:
    def __init__(self, path):
      assert path.startswith('gs://bucket/run/tensorboard/events.out.tfevents.')

    def write(self, data):
      assert data

    def flush(self):
      pass

    def close(self):
      pass

  monkeypatch.setattr(trackers, 'RecordWriter', Records)
  checkpoint.write_config('gs://bucket/run', make_tiny_config(dataset))
  assert checkpoint.read_config('gs://bucket/run').batch_size == 4
  writer = metric_writer.MetricWriter('gs://bucket/run')
  writer.truncate_after(0)
  for step in (1, 2, 3):
    writer.write(step, {'loss': step / 2})
  writer.write_image(3, 'eval', np.zeros((4, 4, 3)))
  writer.close()
  assert [line['step'] for line in metric_writer.read('gs://bucket/run')] == [1, 2, 3]
  resumed = metric_writer.MetricWriter('gs://bucket/run')
  resumed.truncate_after(2)
  monkeypatch.setattr(paths, 'SECONDS_BETWEEN_UPLOADS', 0.0)
  resumed.write(3, {'loss': 9.0})
  assert [line['loss'] for line in metric_writer.read('gs://bucket/run')] == [0.5, 1.0, 9.0]  # Also without close().
  assert paths.directory('gs://bucket/run/images/eval_00000003.png').exists()
  with lock.exclusive(paths.directory('gs://bucket/run')):
    pass


def test_remote_weight_files_are_copied_once_for_each_version(store, tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  with fsspec.open('gs://bucket/weights/a.npz', 'wb') as file:
    np.savez(file, x=np.arange(3))
  first = paths.local_file('gs://bucket/weights/a.npz')
  np.testing.assert_array_equal(np.load(first)['x'], np.arange(3))
  assert paths.local_file('gs://bucket/weights/a.npz') == first
  with fsspec.open('gs://bucket/weights/a.npz', 'wb') as file:
    np.savez(file, x=np.arange(5))
  assert len(np.load(paths.local_file('gs://bucket/weights/a.npz'))['x']) == 5
  assert not paths.local_file('gs://bucket/weights/none.npz').is_file()
  assert str(paths.local_file(f'file://{tmp_path}/a')) == f'{tmp_path}/a' == str(paths.local_file(f'{tmp_path}/a'))


@pytest.mark.parametrize('name', ['encoder_weights', 'lpips_network'])
def test_weights_on_gs_are_read(store, tmp_path, monkeypatch, name):
  """A file that is missing there is bad input, and one that is there is opened."""
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  read = {'encoder_weights': files.read, 'lpips_network': vgg.load_lpips}[name]
  with pytest.raises(InputError, match='gs://bucket/none.safetensors'):
    read('gs://bucket/none.safetensors')
  with fsspec.open('gs://bucket/w.safetensors', 'wb') as file:
    file.write(safetensors.numpy.save({'w': np.ones(2, np.float32)}))
  if name == 'encoder_weights':
    assert files.read('gs://bucket/w.safetensors')['w'].shape == (2,)
  else:
    with pytest.raises(InputError, match='w.safetensors contains neither VGG16'):
      read('gs://bucket/w.safetensors')


def test_directories_that_cannot_be_written_are_bad_input(tmp_path):
  paths.check_writable(tmp_path / 'new' / 'run')
  assert not (tmp_path / 'new').exists()
  (tmp_path / 'file').write_text('')
  with pytest.raises(InputError, match='file is a file: give a directory'):
    paths.check_writable(tmp_path / 'file' / 'run')
