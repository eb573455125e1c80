"""sltool: train one model on the data of many hospitals with spatio-temporal split learning.

    import sltool

    study = sltool.Study.open("my-study")
    study.train("multi").evaluate(by="site")

`docs/api.md` lists all of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sltool.api import FeatureMaps, Run, Site, Study

from sltool.version import __version__

__all__ = ["FeatureMaps", "Run", "Site", "Study", "__version__"]


def __getattr__(name: str) -> Any:
    # Not above: the command line and the server's workers need none of it, and start faster.
    if name in __all__:
        from sltool import api

        return getattr(api, name)
    raise AttributeError(f"module 'sltool' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__
