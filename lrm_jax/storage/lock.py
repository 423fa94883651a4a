"""A lock on a directory of results: one training, or one server, at a time.

The operating system releases it when the process ends.
"""

from collections.abc import Iterator
import contextlib
import errno
import fcntl
import os
import socket

from etils import epath

from lrm_jax.errors import InputError
from lrm_jax.storage import paths


@contextlib.contextmanager
def exclusive(directory: epath.Path, user: str = 'training', option: str = '--workdir') -> Iterator[None]:
  """Holds DIR/.lock. Raises InputError, with the owner, if another process holds it.

  The message says that another `user` has it, and that `option` can name another directory.
  On cloud storage and on file systems without flock, no lock is taken.
  """
  if not paths.is_local(directory):
    yield
    return
  directory.mkdir(parents=True, exist_ok=True)
  with open(directory / '.lock', 'a+', encoding='utf-8') as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
      if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
        yield
        return
      file.seek(0)
      raise InputError(
        f'{directory} is in use by another {user} ({file.read().strip() or "unknown"}): stop that {user}, or '
        f'give another {option}'
      ) from error
    with contextlib.suppress(OSError):  # The disk may be full; the lock holds anyway.
      file.truncate(0)
      file.write(f'process {os.getpid()} on {socket.gethostname()}\n')
      file.flush()
    yield
