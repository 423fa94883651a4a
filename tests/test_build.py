"""Building datasets from folders: all layouts, skipped objects, interrupted builds, and stable splits."""

import json
import os
from pathlib import Path
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from lrm_jax import data_check
from lrm_jax.data import build
from lrm_jax.datasets import folders
from lrm_jax.datasets.records import open_split
from lrm_jax.errors import InputError
from view_folders import write_nerf, write_openlrm, write_video

ROOT = Path(__file__).parents[1]


def run(*args, **kwargs):
  return subprocess.run(
    [sys.executable, ROOT / 'data/build.py', *map(str, args)], capture_output=True, text=True, check=False, **kwargs
  )


@pytest.fixture
def copies(renders, tmp_path):
  """A copy of six rendered balls, which a test may damage."""
  return Path(shutil.copytree(renders, tmp_path / 'renders'))


@pytest.mark.parametrize(
  'write, name',
  [
    (write_openlrm, 'openlrm_folders'),
    (write_nerf, 'nerf_folders'),
    (lambda *args: write_video(*args, binary=True), 'mvimgnet'),
  ],
)
def test_dataset_is_built_from_every_layout(write, name, truth, tmp_path):
  write(tmp_path / 'in', truth)
  result = run('--source', tmp_path / 'in', '--out', tmp_path / 'out', '--test_share', 0)
  assert result.returncode == 0, result.stderr
  path = tmp_path / 'out' / name / '1.1.0'
  assert result.stdout.endswith(f'{path}: 1 train objects, 0 skipped\n')
  (record,) = open_split(path, 'train')
  layout, found = folders.find(tmp_path / 'in')
  ((uid, folder),) = found.items()
  expected = folders.read(layout, uid, folder)
  assert record['uid'].decode() == uid and list(record['views']) == expected['views']
  np.testing.assert_allclose(record['camera_to_world'], expected['camera_to_world'], atol=1e-6)
  lines, problems = data_check.check(path)
  others = [line for line in problems if not line.startswith('size')]  # The views have only 48 px.
  assert not others and f'{name} 1.1.0' in lines[0]


def test_broken_objects_are_skipped_and_reported(copies, tmp_path):
  (copies / 'ball_1/views/002.webp').write_bytes(b'RIFF')
  (copies / 'ball_4/cameras.npz').write_bytes(b'PK')
  result = run('--source', copies, '--out', tmp_path / 'out', '--test_share', 0)
  assert result.returncode == 1 and 'Traceback' not in result.stderr
  assert '4 train objects, 2 skipped' in result.stdout
  assert 'skipped ball_1: ' in result.stderr and '002.webp' in result.stderr and 'skipped ball_4: ' in result.stderr
  path = tmp_path / 'out/objaverse_views/1.1.0'
  skipped = [json.loads(line) for line in (path / 'skipped.jsonl').read_text().splitlines()]
  assert [line['uid'] for line in skipped] == ['ball_1', 'ball_4']
  assert len(open_split(path, 'train')) == 4
  again = run('--source', copies, '--out', tmp_path / 'other', '--test_share', 0, '--max_bad_share', 0.5)
  assert again.returncode == 0


def test_no_dataset_is_written_if_all_objects_are_broken(copies, tmp_path):
  for path in copies.glob('*/cameras.npz'):
    path.write_bytes(b'PK')
  result = run('--source', copies, '--out', tmp_path / 'out')
  assert result.returncode == 2 and 'a split has no usable object' in result.stderr and 'Traceback' not in result.stderr
  assert not list((tmp_path / 'out').rglob('dataset_info.json'))


def test_killed_build_leaves_no_dataset_and_can_be_repeated(copies, tmp_path):
  for number in range(6, 60):
    shutil.copytree(copies / f'ball_{number % 6}', copies / f'ball_{number}')
  out = tmp_path / 'out'
  process = subprocess.Popen(
    [sys.executable, ROOT / 'data/build.py', '--source', copies, '--out', out, '--quality', '90'],
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
    start_new_session=True,
  )
  incomplete = []
  while process.poll() is None and not incomplete:
    incomplete = list(out.glob('*/incomplete.*'))
    time.sleep(0.005)
  os.killpg(process.pid, signal.SIGKILL)
  process.wait()
  assert incomplete and not list(out.glob('*/1.1.0'))
  with pytest.raises(InputError, match='is not a dataset'):
    open_split(incomplete[0], 'train')
  result = run('--source', copies, '--out', out, '--quality', 90)
  assert result.returncode == 0 and '0 skipped' in result.stdout, result.stderr
  assert not list(out.glob('*/incomplete.*'))


def test_existing_dataset_is_not_overwritten(copies, tmp_path):
  assert run('--source', copies, '--out', tmp_path / 'out').returncode == 0
  before = sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / 'out').rglob('*array_record*'))
  result = run('--source', copies, '--out', tmp_path / 'out')
  assert result.returncode == 2 and 'already exists' in result.stderr
  assert before == sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / 'out').rglob('*array_record*'))


def test_objects_keep_their_split_when_others_are_removed():
  found = {f'object_{i}': Path(str(i)) for i in range(3000)}
  splits = build.split_by_uid(found, test_share=0.1, validation_share=0.05)
  sizes = {name: len(objects) / 3000 for name, objects in splits.items()}
  assert sizes == {
    'train': pytest.approx(0.85, abs=0.03),
    'validation': pytest.approx(0.05, abs=0.02),
    'test': pytest.approx(0.1, abs=0.02),
  }
  assert sum(map(len, splits.values())) == 3000
  fewer = build.split_by_uid(dict(list(found.items())[::3]), test_share=0.1, validation_share=0.05)
  for name, objects in fewer.items():
    assert objects.keys() <= splits[name].keys()


def test_lists_of_uids_select_the_splits(tmp_path):
  found = {name: Path(name) for name in 'abcd'}
  (tmp_path / 'test.txt').write_text('b  # held out\n')
  (tmp_path / 'not.txt').write_text('d\n')
  splits = build.split_by_uid(found, tmp_path / 'test.txt', tmp_path / 'not.txt')
  assert {name: sorted(objects) for name, objects in splits.items()} == {'train': ['a', 'c'], 'test': ['b']}
  (tmp_path / 'test.txt').write_text('z\n')
  with pytest.raises(ValueError, match='lists objects that do not exist: z'):
    build.split_by_uid(found, tmp_path / 'test.txt')


@pytest.mark.parametrize(
  'args, message',
  [
    (('--source', 'nowhere', '--out', 'out'), 'nowhere is not a directory'),
    (('--source', '.', '--out', 'out', '--layout', 'lego'), "layout 'lego' is unknown"),
    (('--source', '.', '--out', 'out', '--test_share', '2'), 'must be between 0 and 1'),
  ],
)
def test_bad_input_is_reported_in_one_line(args, message, tmp_path):
  result = run(*args, cwd=tmp_path)
  assert result.returncode == 2 and message in result.stderr and 'Traceback' not in result.stderr


@pytest.mark.slow
def test_beam_pipeline_builds_the_same_dataset(copies, tmp_path):
  pytest.importorskip('apache_beam', reason="Apache Beam is not installed: pip install '.[beam]'")
  (copies / 'ball_4/cameras.npz').write_bytes(b'PK')
  records = {}
  for name, options in (('plain', ()), ('beam', ('--beam', '--direct_num_workers=1'))):
    result = run('--source', copies, '--out', tmp_path / name, '--test_share', 0, *options)
    assert result.returncode == 1 and '5 train objects, 1 skipped' in result.stdout, result.stderr
    path = tmp_path / name / 'objaverse_views/1.1.0'
    assert 'ball_4' in (path / 'skipped.jsonl').read_text() and not list(path.parent.glob('.skipped'))
    records[name] = {record['uid']: record for record in open_split(path, 'train')}
  assert records['plain'].keys() == records['beam'].keys()
  for uid, record in records['plain'].items():
    assert list(record['views']) == list(records['beam'][uid]['views'])
    np.testing.assert_array_equal(record['camera_to_world'], records['beam'][uid]['camera_to_world'])
