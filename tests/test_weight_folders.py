"""Third-party models as training programs and hubs store them: prefixes, shards, and folders of a training."""

import json
from pathlib import Path
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
import yaml

from lrm_jax.errors import InputError
from lrm_jax.weights import files, openlrm, pretrained, tables, triposr

GOLDEN = Path(__file__).parent / 'golden'


def golden(name):
  """Returns ({tensor name: array}, configuration) of a tiny model of random weights."""
  args = json.loads((GOLDEN / 'configs.json').read_text())[f'golden/{name}']['args']
  tensors = load_file(GOLDEN / f'{name}.safetensors')
  tensors = {key.removeprefix('state/'): x for key, x in tensors.items() if key.startswith('state/')}
  if name == 'triposr':
    return tensors, args[0] | {'encoder_num_heads': args[1]['heads']}
  return tensors, args[2] | {'encoder_type': args[0], 'encoder_num_heads': args[1]['heads']}


@pytest.fixture(scope='module')
def model():
  return golden('openlrm_dinov1')


@pytest.fixture
def folder(model, tmp_path):
  """A directory in the format of OpenLRM's releases, without the tensors."""
  (tmp_path / 'config.json').write_text(json.dumps(model[1]))
  return tmp_path


def assert_loads(directory, tensors, kind=openlrm):
  """Checks that a directory is recognised and has the tensors, converted."""
  directory = pretrained.find(directory)
  assert pretrained._kind(directory) is kind
  config, arrays = pretrained.read(directory, kind)
  expected = kind.load(tensors, pretrained.shapes(config), 'expected')
  assert arrays.keys() == expected.keys()
  for path, array in arrays.items():
    np.testing.assert_array_equal(array, expected[path])


def renamed(tensors, change):
  return {change(name): array for name, array in tensors.items()}


PREFIXES = {
  'DataParallel': lambda name: f'module.{name}',
  'torch.compile': lambda name: f'_orig_mod.{name}',
  'Lightning': lambda name: f'state_dict.model.{name}',
  'both': lambda name: f'module._orig_mod.{name}',
  'unknown': lambda name: f'lrm_generator.net.{name}',
  'a compiled part': lambda name: name.replace('transformer.layers', 'transformer._orig_mod.layers'),
}


@pytest.mark.parametrize('kind', PREFIXES)
def test_prefixes_of_all_names_are_removed(kind, model, folder):
  save_file(renamed(model[0], PREFIXES[kind]), folder / 'model.safetensors')
  assert_loads(folder, model[0])


def test_prefixes_of_triposr_are_removed(tmp_path):
  tensors, config = golden('triposr')
  (tmp_path / 'config.yaml').write_text(yaml.safe_dump(config))
  save_file(renamed(tensors, PREFIXES['Lightning']), tmp_path / 'model.safetensors')
  assert_loads(tmp_path, tensors, triposr)


def test_tensors_of_the_optimiser_are_left_out(model, folder):
  optimiser = {f'optimizer.state.{i}.exp_avg': np.ones(3, np.float32) for i in range(3)}
  save_file(renamed(model[0], PREFIXES['Lightning']) | optimiser, folder / 'model.safetensors')
  assert_loads(folder, model[0])


def test_a_file_with_two_models_is_refused(model, folder):
  both = {f'{prefix}.{name}': array for prefix in ('model', 'ema') for name, array in model[0].items()}
  save_file(both, folder / 'model.safetensors')
  with pytest.raises(InputError, match='contains several models, with the prefixes ema., model.: save the tensors of'):
    pretrained.read(folder, openlrm)


def test_names_that_were_found_are_shown_beside_missing_ones(model, folder):
  tensors = dict(model[0])
  tensors['other.pos_embed'] = tensors.pop('pos_embed')
  tensors['nerf.decoder.net.0.weight'] = tensors.pop('synthesizer.decoder.net.0.weight')
  save_file(tensors, folder / 'model.safetensors')
  with pytest.raises(InputError) as info:
    pretrained.read(folder, openlrm)
  for text in (
    'pos_embed is missing (but there is other.pos_embed)',
    'synthesizer.decoder.net.0.weight is missing (but there is nerf.decoder.net.0.weight)',
    f'It has {len(tensors)} tensors: camera_embedder.mlp.0.bias, ',
  ):
    assert text in str(info.value)


def test_names_are_shown_if_nothing_fits(folder):
  save_file({f'layer{i}.weight': np.zeros(2, np.float32) for i in range(9)}, folder / 'model.safetensors')
  with pytest.raises(InputError, match='does not contain a ViT.*It has 9 tensors: layer0.weight, .* and 3 more'):
    pretrained.read(folder, openlrm)


def write_shards(tensors, folder, count=3, index=True, name='model.safetensors'):
  """Writes tensors to several files, and returns the files."""
  stem, suffix = name.rsplit('.', 1)
  shards = [f'{stem}-{i + 1:05d}-of-{count:05d}.{suffix}' for i in range(count)]
  names = sorted(tensors)
  for i, shard in enumerate(shards):
    save_file({name: tensors[name] for name in names[i::count]}, folder / shard)
  if index:
    content = {'metadata': {}, 'weight_map': {name: shards[i % count] for i, name in enumerate(names)}}
    (folder / f'{name}.index.json').write_text(json.dumps(content))
  return [folder / shard for shard in shards]


@pytest.mark.parametrize('index', [True, False], ids=['with an index', 'without an index'])
def test_shards_are_joined(index, model, folder):
  write_shards(renamed(model[0], PREFIXES['DataParallel']), folder, index=index)
  assert_loads(folder, model[0])


@pytest.mark.parametrize('index', [True, False], ids=['with an index', 'without an index'])
def test_missing_shards_are_named(index, model, folder):
  write_shards(model[0], folder, index=index)[1].unlink()
  with pytest.raises(InputError, match='needs 3 files, of which model-00002-of-00003.safetensors is missing: copy all'):
    pretrained.load(folder)


@pytest.mark.parametrize(
  'content, message',
  [
    ('{', 'is not an index of shards'),
    ('{"weight_map": {"x": "../model.safetensors"}}', 'must have the names of files beside it'),
    ('{"weight_map": {"lost": "model-00001-of-00003.safetensors"}}', 'the first is lost of model-00001'),
  ],
)
def test_damaged_indexes_are_named(content, message, model, folder):
  write_shards(model[0], folder)
  (folder / 'model.safetensors.index.json').write_text(content)
  with pytest.raises(InputError, match=message):
    pretrained.load(folder)


def test_shards_in_pytorch_format_are_joined(tmp_path):
  source = Path(__file__).parent / 'pytorch/tensors.pth'
  shards = [f'pytorch_model-0000{i}-of-00002.bin' for i in (1, 2)]
  for shard in shards:
    shutil.copy(source, tmp_path / shard)
  weight_map = {'teacher.plain': shards[0], 'teacher.count': shards[1]}
  (tmp_path / 'pytorch_model.bin.index.json').write_text(json.dumps({'weight_map': weight_map}))
  path = files.locate(tmp_path, openlrm.TENSORS)
  tensors = files.read(path)
  assert tensors.keys() == weight_map.keys()
  np.testing.assert_array_equal(np.asarray(tensors['teacher.plain']), np.arange(6.0).reshape(2, 3))


def test_git_lfs_pointers_are_named(folder):
  (folder / 'model.safetensors').write_text('version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n')
  with pytest.raises(InputError, match='is a pointer of Git LFS, not the weights: get them with `git lfs pull`'):
    pretrained.load(folder)


@pytest.fixture
def training(model, tmp_path):
  """A folder of OpenLRM's training, with two steps and without a configuration. The first step has other weights."""
  for step, tensors in (('001000', {'x': np.zeros(1, np.float32)}), ('012000', model[0])):
    folder = tmp_path / 'exps/checkpoints/parent/child' / step
    folder.mkdir(parents=True)
    save_file(tensors, folder / 'model.safetensors')
    (folder / 'optimizer.bin').touch()
  return tmp_path / 'exps/checkpoints/parent/child'


def write_training_config(path, model):
  config = {'experiment': {'type': 'lrm'}, 'model': model[1], 'dataset': {'source_image_res': 36}, 'train': {}}
  path.write_text(yaml.safe_dump(config))


@pytest.mark.parametrize('place', ['012000/config.yaml', 'train-small.yaml', '../train.yml'])
def test_the_latest_step_of_a_training_of_openlrm_is_loaded(place, training, model):
  write_training_config(training / place, model)
  assert_loads(training, model[0])
  assert_loads(training / '012000', model[0])
  config, _ = pretrained.read(training / '012000', openlrm)
  patch = config.model.patch_size
  assert config.model.image_size == 36 // patch * patch


def test_a_training_without_its_configuration_names_the_remedy(training):
  with pytest.raises(InputError, match=r'012000 is a checkpoint of a training without its configuration.*\(--config\)'):
    pretrained.load(training)


def test_several_configurations_of_a_training_are_refused(training, model):
  for name in ('a.yaml', 'b.yaml'):
    write_training_config(training / name, model)
  with pytest.raises(InputError, match=r'several configurations of OpenLRM \(a.yaml, b.yaml\): keep one'):
    pretrained.load(training)


def test_names_twice_are_refused():
  with pytest.raises(InputError, match='contains a.b twice'):
    tables.without_wrappers({'module.a.b': None, 'a.b': None}, 'a.b', 'x.pth')
