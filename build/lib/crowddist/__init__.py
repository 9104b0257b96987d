"""crowddist adapts a crowd counter to cameras nobody has labelled.

    import crowddist

    counter = crowddist.load("runs/demo")
    result = counter.count("photo.jpg")
    print(result.count, result.low, result.high, result.points)

A name is imported when it is first used: `import crowddist` alone imports neither PyTorch nor NumPy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crowddist.api import CountResult, CrowdCounter, load
    from crowddist.errors import InputError

__version__ = "0.1.0"
__all__ = ["CountResult", "CrowdCounter", "InputError", "__version__", "load"]

_HOMES = {"CountResult": "crowddist.api", "CrowdCounter": "crowddist.api", "load": "crowddist.api",
          "InputError": "crowddist.errors"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
