"""Fitted estimators from skops files, which run no code; needs the extra ``skops``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from skops import io as skops_io

from carma.classifiers.base import Classifier
from carma.classifiers.estimator import from_estimator
from carma.errors import FileError
from carma.schema import Level, Schema

__all__ = ["from_skops"]


def from_skops(
    path: str | Path,
    schema: Schema,
    *,
    rows: Any = None,
    favourable: Level | None = None,
    trusted: Sequence[str] = (),
) -> Classifier:
    """Read a fitted estimator that ``skops.io.dump`` wrote; see ``from_estimator``.

    Args:
        path: The file.
        schema: The problem.
        rows: See ``from_estimator``.
        favourable: See ``from_estimator``.
        trusted: Types in the file that skops does not know to be harmless, which you trust. A
            function in a pipeline is such a type.

    Raises:
        FileError: The file cannot be read, or holds types that are not trusted; the message
            names them.
        ClassifierError: See ``from_estimator``.

    Example:
        >>> from carma import CausalGraph, Feature
        >>> schema = Schema((Feature("income"),), CausalGraph(("income",)))
        >>> from_skops("absent.skops", schema)
        Traceback (most recent call last):
        carma.errors.FileError: from_skops: 'path' must be a skops file ...
    """
    owner = "from_skops"
    try:
        unknown = sorted(set(skops_io.get_untrusted_types(file=path)) - set(trusted))
    except Exception as error:
        # Whatever is wrong with a damaged archive: each of its parts has its own exceptions.
        rule = f"be a skops file ({type(error).__name__}: {error})"
        raise FileError.of(owner, "path", rule, str(path)) from error
    if unknown:
        rule = f"hold types that skops trusts, or that you name as trusted; it holds {unknown}"
        raise FileError.of(owner, "path", rule, str(path))
    try:
        estimator = skops_io.load(path, trusted=list(trusted))
    except Exception as error:
        rule = f"be readable with the packages installed here ({type(error).__name__}: {error})"
        raise FileError.of(owner, "path", rule, str(path)) from error
    return from_estimator(estimator, schema, rows=rows, favourable=favourable)
