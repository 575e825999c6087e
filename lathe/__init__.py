"""Lathe in a script or a notebook.

Example::

    from lathe import compose, freeze, run

    result = run(freeze(compose(["model=mlp", "max_steps=100"])))
    print(result.metrics["test/accuracy_top1"])

Your own components find Lathe's contracts and building blocks in `lathe.modules`, such as `lathe.modules.data.base`.
"""

from lathe.names import pin

pin()  # before anything else of Lathe is imported

from experiments.api import compose, freeze, load_model, run, runs, sweep  # noqa: E402

__all__ = ["compose", "freeze", "load_model", "run", "runs", "sweep"]
