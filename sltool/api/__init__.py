"""The front door: what a notebook and the command line call.

A `Study` is a folder; its methods are the stages, each of which can be called again: what is done
is skipped. Every error is one of `sltool.errors`.

    study = sltool.Study.create("my-study", "cholesterol")
    study.prepare()
    study.partition((7, 2, 1))
    study.encode()
    study.ship()
    run = study.train()
    run.evaluate(["smape"], by="site")

Nothing here imports torch or pandas before a method needs it.
"""

from sltool.api.results import FeatureMaps, State, Training
from sltool.api.run import Run
from sltool.api.site import Site
from sltool.api.study import Study

__all__ = ["FeatureMaps", "Run", "Site", "State", "Study", "Training"]
