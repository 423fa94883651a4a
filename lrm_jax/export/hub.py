"""Uploads an export to the Hugging Face Hub, with a model card; `hf://owner/name` loads it back.

huggingface_hub handles the token (`hf auth login`, HF_TOKEN), HF_ENDPOINT and large files. The card is made by
lrm_jax/export/model_card.py.
"""

from collections.abc import Iterator, Sequence
import contextlib
import json
from pathlib import Path

from lrm_jax.errors import FailureError, InputError, must_be_mended, one_line
from lrm_jax.export import model_card
from lrm_jax.weights import pretrained

_MAY_PASS = (408, 429)  # HTTP statuses below 500 that another attempt may not get: a time-out, too many requests.


def check(name: str) -> None:
  """Raises InputError unless `name` is owner/name and a token is stored. Does not use the network."""
  import huggingface_hub  # Takes half a second to import, so import it only here.
  from huggingface_hub.errors import HFValidationError
  from huggingface_hub.utils import validate_repo_id

  try:
    validate_repo_id(name)
  except HFValidationError as error:
    raise InputError(f'--push_to_hub={name} is not the name of a model: use owner/name ({one_line(error)})') from error
  if name.count('/') != 1:
    raise InputError(f'--push_to_hub={name} is not the name of a model: use owner/name')
  if huggingface_hub.get_token() is None:
    raise InputError(
      '--push_to_hub needs a token of the Hugging Face Hub with write access: run `hf auth login`, or set HF_TOKEN'
    )


def push(
  directory: Path,
  name: str,
  *,
  license: str | None = None,
  datasets: Sequence[str] = (),
  results: dict | None = None,
  private: bool = False,
) -> str:
  """Uploads an exported model to the repository `name`, which is made if it does not exist; returns its address.

  `license` is an identifier of the Hub, such as apache-2.0, `datasets` are names there, and `results` is the content of
  a results.json; they are written into the card. Paths of this machine in config.json are cut to their last part.
  Raises InputError if the Hub refuses the name or the token, and FailureError if it cannot be reached.
  """
  import huggingface_hub

  config, _ = pretrained.stored(directory)
  card = model_card.card(
    name, config.to_dict(), pretrained.shapes(config), license=license, datasets=datasets, results=results
  )
  (directory / 'README.md').write_text(card)
  if (directory / 'config.json').is_file():
    values = json.loads((directory / 'config.json').read_text())
    (directory / 'config.json').write_text(json.dumps(_without_folders(values), indent=2) + '\n')
  api = huggingface_hub.HfApi(library_name='lrm_jax')
  with _explained(name):
    api.create_repo(name, private=private, exist_ok=True)
    api.upload_folder(repo_id=name, folder_path=directory, commit_message='Upload a model of lrm_jax')
  return f'hf://{name}'


def _without_folders(value):
  """Returns a value of a JSON file in which absolute paths are replaced by their last part."""
  if isinstance(value, dict):
    return {name: _without_folders(one) for name, one in value.items()}
  if isinstance(value, list):
    return [_without_folders(one) for one in value]
  return Path(value).name if isinstance(value, str) and value.startswith(('/', '~')) else value


@contextlib.contextmanager
def _explained(name: str) -> Iterator[None]:
  """Turns errors of the Hub and of the network into one sentence."""
  from huggingface_hub.errors import HfHubHTTPError

  # The first base is that of all errors of the HTTP library; which library it is depends on the version.
  http_error: type[BaseException] = HfHubHTTPError.__bases__[0]
  try:
    yield
  except (OSError, http_error) as error:
    if must_be_mended(error):
      raise
    status = getattr(getattr(error, 'response', None), 'status_code', None) or 500
    refused = 400 <= status < 500 and status not in _MAY_PASS
    remedy = '; the token needs write access to this owner' if status in (401, 403) else ''
    sentence = f'{name} could not be uploaded to the Hugging Face Hub: {one_line(error)[:300]}{remedy}'
    raise (InputError if refused else FailureError)(sentence) from error
