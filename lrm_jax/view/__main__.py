# PYTHON_ARGCOMPLETE_OK
"""Serves a page and an HTTP API on which images become objects: python -m lrm_jax.view [--checkpoint=demo]

Open the address that it prints. Results are written to --out, and shown again after a restart. Nothing is sent to other
machines, and other machines have no access unless --host says so; docs/view.md describes the API and its limits.
"""

import argparse
import contextlib
import os
from pathlib import Path
import secrets
import socket

from etils import epath
import uvicorn

from lrm_jax.command_line import enable_compilation_cache, run_main
from lrm_jax.errors import InputError
from lrm_jax.reconstruction import segmenters
from lrm_jax.storage import lock
from lrm_jax.view.guard import Guard, is_loopback
from lrm_jax.view.server import Server
from lrm_jax.weights import pretrained

TOKEN = 'LRM_JAX_VIEW_TOKEN'
_CONNECTIONS = 64


def parser() -> argparse.ArgumentParser:
  """Returns the parser of the command's options."""
  result = argparse.ArgumentParser(prog='lrm_jax.view', description=__doc__.splitlines()[0])
  group = result.add_argument_group('models and results')
  group.add_argument(
    '--checkpoint',
    action='append',
    default=[],
    help=f'{pretrained.HELP}; may be repeated. The first is the default model; shipped models are always offered',
  )
  group = result.add_argument_group('network')
  group.add_argument('--host', default='127.0.0.1', help='address to listen on (default: 127.0.0.1, this machine only)')
  group.add_argument('--port', type=int, default=8321, help='port (default: 8321; 0: any that is free)')
  group.add_argument('--out', type=Path, default=Path('out/view'), help='directory of the results (default: out/view)')
  group.add_argument(
    '--token', help=f'needed by clients if --host is not this machine only (default: {TOKEN}, otherwise a random one)'
  )
  group.add_argument('--allow_host', action='append', default=[], help='another name of this server; may be repeated')
  group = result.add_argument_group('limits')
  group.add_argument('--max_upload', type=float, default=32, help='largest upload, in MiB (default: 32)')
  group.add_argument('--max_pixels', type=int, default=64_000_000, help='most pixels of an image (default: 64 million)')
  group = result.add_argument_group('start')
  group.add_argument('--segmenter', default='grabcut', help=f'{segmenters.HELP}; default: grabcut')
  group.add_argument('--no_warm_up', action='store_true', help='compile programs when they are first needed')
  return result


def listen(host: str, port: int) -> socket.socket:
  """Returns a socket that listens; raises InputError if the port is taken or the host is no address of this machine."""
  if not 0 <= port < 2**16:
    raise InputError(f'--port={port} must be in 0 to 65535')
  try:
    [family, kind, _, _, address] = socket.getaddrinfo(host.strip('[]'), port, type=socket.SOCK_STREAM)[0]
  except OSError as error:
    raise InputError(f'--host={host} is no address of this machine: use 127.0.0.1 or 0.0.0.0') from error
  result = socket.socket(family, kind)
  try:
    result.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    result.bind(address)
    result.listen(128)
  except OSError as error:
    result.close()
    raise InputError(f'cannot listen on {host} port {port} ({error.strerror}): use another --port') from error
  return result


def main() -> None:
  args = parser().parse_args()
  if args.max_upload <= 0 or args.max_pixels < 1:
    raise InputError(f'--max_upload={args.max_upload:g} must be above 0 and --max_pixels={args.max_pixels} at least 1')
  loopback = is_loopback(args.host)
  token = args.token or os.environ.get(TOKEN) or (None if loopback else secrets.token_urlsafe(16))
  enable_compilation_cache()
  with contextlib.ExitStack() as stack:
    bound = stack.enter_context(listen(args.host, args.port))
    stack.enter_context(lock.exclusive(epath.Path(args.out.absolute()), 'server', '--out'))
    max_bytes = int(args.max_upload * 2**20)
    server = Server(
      args.out.absolute(),
      args.checkpoint,
      max_bytes=max_bytes,
      max_pixels=args.max_pixels,
      warm_up=not args.no_warm_up,
      segmenter=args.segmenter,
    )
    app = Guard(server.app, loopback=loopback, hosts=args.allow_host, token=token, max_bytes=max_bytes)
    host = f'[{args.host}]' if ':' in args.host else args.host
    print(f'Open http://{host}:{bound.getsockname()[1]}/{f"?token={token}" if token else ""}', flush=True)
    config = uvicorn.Config(
      app, log_level='warning', access_log=False, limit_concurrency=_CONNECTIONS, timeout_graceful_shutdown=2,
      server_header=False,
    )  # fmt: skip
    uvicorn.Server(config).run(sockets=[bound])


if __name__ == '__main__':
  run_main(main)
