"""Stands in for the libraries of models where there are none: what uses them is left out.

Importing the library goes through; whatever would then compute with a model raises `LeftOut`, and
the cell ends with one line, as on the preset `recorded` everywhere.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import pkgutil
import sys
from collections.abc import Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

HEAVY = (
    "torch transformers trl peft accelerate datasets lm_eval tokenizers safetensors huggingface_hub"
)
loading = True  # while the library is imported, decorators and base classes are called


class Absent(type):
    """Any name of an absent library: a base class, a decorator, an annotation; never a value."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return absent(f"{cls.__qualname__}.{name}")

    def __call__(cls, *given: Any, **named: Any) -> Any:
        """Leave a cell out; while the library is imported, decorate and be called."""
        if not loading:
            cls.__iter__()
        return given[0] if len(given) == 1 and callable(given[0]) else absent(cls.__qualname__)

    def __iter__(cls) -> Any:
        """Leave a cell out; also where something is looked for in it."""
        from alignment_tax.pipeline.recorded_only import LeftOut

        raise LeftOut(f"{cls.__qualname__}, of a library of models that is not here")

    def __or__(cls, other: Any) -> Any:
        return Any

    __ror__ = __or__

    def __getitem__(cls, key: Any) -> Any:
        return cls


def absent(name: str) -> Any:
    """Return what stands for a name of a library that is not here."""
    return Absent(name.rpartition(".")[2], (), {"__qualname__": name})


class AbsentModule(ModuleType):
    """A library that is not here."""

    __path__: Sequence[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return absent(f"{self.__name__}.{name}")


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the absent libraries, and everything below them."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Return where an absent module comes from: here."""
        if name.partition(".")[0] in HEAVY.split():
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: Any) -> ModuleType:
        """Return the module."""
        return AbsentModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing to run."""


if not any(isinstance(each, Finder) for each in sys.meta_path):
    sys.meta_path.insert(0, Finder())
    import torch

    # a study asks where it would compute
    torch.cuda = SimpleNamespace(is_available=lambda: False)
    torch.device = lambda name: SimpleNamespace(type=name)
    torch.set_num_threads = torch.set_autocast_dtype = lambda *given: None
    import alignment_tax

    # all of it now: later a decorator of such a library counts as its use
    for each in pkgutil.walk_packages(alignment_tax.__path__, "alignment_tax."):
        if not each.name.endswith("__main__"):
            importlib.import_module(each.name)
    from alignment_tax.pipeline.recorded_only import leave_out_cells

    leave_out_cells()
loading = False
