"""Train several seeds of each recipe at once on one GPU, in the folders of a study; on JAX.

    KERAS_BACKEND=jax python -m training.train_together --recipe resnet20_multiception_cifar10 \
        resnet20_dsconv_cifar10 --seeds 3 --workdir runs/study

`python -m training.study` with the same recipes, seeds and workdir then makes the tables. However
it was stopped, the same command goes on.
"""

import pathlib
import sys

from training.cli import Parser
from training.studies.plan import plan_conditions, plan_runs


def main(argv=None):
    """Train from the command line.

    Args:
        argv: List of arguments; the default is the process's.

    Returns:
        The exit code: 0, 1 if a file could not be written or a loss was lost, 130 if it was
        interrupted. Bad usage exits with 2 and one line on the standard error.
    """
    parser = Parser(prog="python -m training.train_together", description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", nargs="+", required=True, help="names, or .json files")
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0 (%(default)s)")
    parser.add_argument(
        "--workdir", type=pathlib.Path, required=True, help="folder of the study; resumes it"
    )
    parser.add_argument("--data_dir", help="directory of the data, prepared or as arrays")
    parser.add_argument("--quick", action="store_true", help="the recipes' variants for a laptop")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", help="values to change in each recipe"
    )
    args = parser.parse_args(argv)
    try:
        conditions = plan_conditions(args.recipe, quick=args.quick, changes=args.set)
        plans = [plan_runs([condition], args.seeds, args.workdir) for condition in conditions]
        from training.fit import train_together  # imports Keras, which takes seconds

        for condition, runs in zip(conditions, plans, strict=True):
            print(f"{condition.label}, seeds {', '.join(str(run.seed) for run in runs)}")
            train_together(
                condition.recipe,
                [run.seed for run in runs],
                [run.path for run in runs],
                name=_name(condition),
                data_dir=args.data_dir,
            )
    except ValueError as error:
        parser.error(error)
    except (FloatingPointError, OSError) as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted. The same command goes on from here.", file=sys.stderr)
        return 130
    return 0


def _name(condition):
    """Return the name of the recipe as `training.train` gets it from a study."""
    return condition.arguments[condition.arguments.index("--recipe") + 1]


if __name__ == "__main__":
    sys.exit(main())
