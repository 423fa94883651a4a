"""Makes procedural objects in an Apache Beam pipeline: python -m lrm_jax.data.procedural_beam --count=N --out=DIR

Takes the options of data/procedural.py, except --workers, --shard and --dataset, and any option of Beam, such as
--runner=DataflowRunner. The machines of the runner must have access to DIR under the given path, and the extra
`procedural` must be installed on them. The results are those of data/procedural.py: an object depends only on its
preset, seed and index. DIR/report-*.jsonl has one line per object; the exit code is 1 if any failed.
"""

from lrm_jax.command_line import run_main
from lrm_jax.data import procedural, render_beam


def main(argv=None) -> int:
  args, rest = procedural.parse(argv, known=True)
  if args.glb:
    args.glb.mkdir(parents=True, exist_ok=True)
  objects = procedural.as_objects(uid for uid in procedural.chosen_uids(args) if not procedural.is_done(uid, args))
  settings = procedural.settings_of(args)
  return render_beam.run(objects, args.out, settings, procedural.COMMAND, args.timeout, rest)


if __name__ == '__main__':
  run_main(main)
