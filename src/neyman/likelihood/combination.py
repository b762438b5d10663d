"""`Likelihood`: terms joined by parameter name, with each constraint counted once."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from neyman.errors import LikelihoodError, nearest
from neyman.likelihood.constraints import ConstraintTerm
from neyman.likelihood.parameters import Parameter, merge
from neyman.likelihood.term import Term

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Data:
    """Everything observed: one entry a term, and the global observables by parameter name."""

    terms: tuple[Any, ...]
    global_observables: Mapping[str, float]


class Likelihood:
    r"""Product of independent terms and of the constraints of their nuisance parameters.

    .. math:: -2\ln L(\theta) = \sum_t -2\ln L_t(\theta) + \sum_k -2\ln c(a_k | \theta_k)

    Parameters of the same name in several terms are one parameter, and its constraint counts once.

    Parameters
    ----------
    terms
        Binned and unbinned terms.
    global_observables
        Values that replace the constraints' own, by parameter name.

    Attributes
    ----------
    names
        Parameter names, in the order of the last axis of every argument `x`.
    inits
        Starting values, shape ``(n_parameters,)``.
    bounds
        Lower and upper bounds, shape ``(n_parameters, 2)``.
    fixed
        Parameters that fits keep at their start, shape ``(n_parameters,)``.
    """

    errordef = 1.0

    def __init__(
        self, terms: Sequence[Term], *, global_observables: Mapping[str, float] | None = None
    ) -> None:
        if not terms:
            raise LikelihoodError("a likelihood needs at least one term")
        self.terms: tuple[Term, ...] = tuple(terms)
        self.parameters: tuple[Parameter, ...] = merge(term.parameters for term in self.terms)
        self.names = tuple(parameter.name for parameter in self.parameters)
        self.inits: Array = np.array([p.init for p in self.parameters], dtype=np.float64)
        self.bounds: Array = np.array([(p.lower, p.upper) for p in self.parameters], dtype=np.float64)
        self.fixed: NDArray[np.bool_] = np.array([p.fixed for p in self.parameters], dtype=np.bool_)
        self._position = {name: i for i, name in enumerate(self.names)}
        self._columns = [
            torch.tensor([self._position[p.name] for p in term.parameters], dtype=torch.long)
            for term in self.terms
        ]
        self.constraints = ConstraintTerm(self.parameters, global_observables or {})

    # Building ---------------------------------------------------------------------------------------------

    @classmethod
    def from_pyhf(cls, spec: Any, data: ArrayLike | None = None, measurement: str | None = None) -> Self:
        """Compile a pyhf workspace, workspace specification, model or model specification.

        Parameters
        ----------
        spec
            ``pyhf.Workspace``, ``pyhf.Model``, or the JSON of either as a dictionary, or a path to it.
        data
            Main data followed by auxiliary data, in the order of ``model.config.channels``. A workspace
            brings its own.
        measurement
            Name of the measurement of a workspace; the first by default.

        Raises
        ------
        WorkspaceError
            When the document cannot be read, fails the schema, or describes an impossible model.
        LikelihoodError
            When the data have the wrong length, or none are given.
        """
        from neyman.likelihood.histfactory import binned_term

        term, global_observables = binned_term(spec, data=data, measurement=measurement)
        return cls([term], global_observables=global_observables)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        prefer: Literal["unbinned", "binned"] = "unbinned",
        measurement: str | None = None,
    ) -> Self:
        """Read a workspace folder (binned and unbinned channels) or a pyhf JSON file.

        Parameters
        ----------
        path
            Folder with ``binned.json`` and/or ``unbinned.json``, or a single JSON file.
        prefer
            Which description is used where a channel exists in both forms over the same events.
        measurement
            Name of the measurement in both documents; the first of each by default.

        Raises
        ------
        WorkspaceError
            When a document cannot be read, fails its schema, or has no such measurement.
        LikelihoodError
            When the documents do not fit together, or the events cannot be evaluated.
        """
        from neyman.likelihood.load import load_terms

        terms, global_observables = load_terms(path, prefer, measurement)
        return cls(terms, global_observables=global_observables)

    # Evaluating -------------------------------------------------------------------------------------------

    def evaluate(self, x: ArrayLike, order: int = 0) -> tuple[Array, Array | None, Array | None]:
        """Return ``-2 ln L`` with its gradient (`order` 1) and Hessian (`order` 2).

        Parameters
        ----------
        x
            Shape ``(n_parameters,)`` or ``(n_batch, n_parameters)``.
        order
            0, 1 or 2.

        Raises
        ------
        LikelihoodError
            When `x` has the wrong length or is not finite, or when the density of an event is not positive.
        """
        theta = torch.tensor(np.asarray(x, dtype=np.float64))
        if theta.ndim not in (1, 2) or theta.shape[-1] != len(self.names):
            raise LikelihoodError(
                f"expected {len(self.names)} parameter values, got an array of shape {tuple(theta.shape)}",
                expected=f"shape ({len(self.names)},) or (n_batch, {len(self.names)}), ordered as {self.names[:4]}...",
            )
        if not bool(torch.isfinite(theta).all()):
            bad = sorted({int(i) for i in torch.nonzero(~torch.isfinite(theta))[:, -1]})
            raise LikelihoodError(
                f"parameter {', '.join(self.names[i] for i in bad)} is not finite", expected="finite values"
            )
        total = self.constraints.evaluate(theta, order)
        value, gradient, hessian = total.value, total.gradient, total.hessian
        for term, columns in zip(self.terms, self._columns, strict=True):
            part = term.evaluate(theta[..., columns], order)
            value = value + part.value
            if gradient is not None and part.gradient is not None:
                gradient = gradient.index_add(-1, columns, part.gradient)
            if hessian is not None and part.hessian is not None:
                block = torch.zeros(*theta.shape, len(columns), dtype=theta.dtype)
                block = block.index_add(-2, columns, part.hessian)
                hessian = hessian.index_add(-1, columns, block)
        return (
            value.numpy(),
            None if gradient is None else gradient.numpy(),
            None if hessian is None else hessian.numpy(),
        )

    def value(self, x: ArrayLike) -> float | Array:
        """Return ``-2 ln L`` including constants: a float, or shape ``(n_batch,)`` for a batch."""
        value = self.evaluate(x, 0)[0]
        return value if value.ndim else float(value)

    def gradient(self, x: ArrayLike) -> Array:
        """Return the gradient of :meth:`value`, shape ``x.shape``."""
        gradient = self.evaluate(x, 1)[1]
        return np.asarray(gradient)

    def hessian(self, x: ArrayLike) -> Array:
        """Return the Hessian of :meth:`value`, shape ``x.shape + (n_parameters,)``."""
        hessian = self.evaluate(x, 2)[2]
        return np.asarray(hessian)

    __call__ = value

    # Naming -----------------------------------------------------------------------------------------------

    def index(self, name: str | int) -> int:
        """Return the position of a parameter given by name or index."""
        if isinstance(name, str):
            if name in self._position:
                return self._position[name]
            raise LikelihoodError(
                f"the likelihood has no parameter {name!r}", fix=f"nearest names: {nearest(name, self.names)}"
            )
        if not -len(self.names) <= name < len(self.names):
            raise LikelihoodError(f"parameter index {name} is out of range for {len(self.names)} parameters")
        return name % len(self.names)

    def vector(self, values: Mapping[str, float] | ArrayLike | None = None) -> Array:
        """Return a full parameter vector: the starting values, changed by a mapping, or a checked array."""
        if values is None:
            return self.inits.copy()
        if isinstance(values, Mapping):
            x = self.inits.copy()
            for name, value in values.items():
                x[self.index(name)] = value
            return x
        x = np.array(values, dtype=np.float64)
        if x.shape != self.inits.shape:
            raise LikelihoodError(
                f"expected {len(self.names)} parameter values, got an array of shape {x.shape}",
                fix="pass a mapping of names to values to change some of the starting values",
            )
        return x

    # Data -------------------------------------------------------------------------------------------------

    @property
    def global_observables(self) -> dict[str, float]:
        """Observed values of the constraints by parameter name."""
        return self.constraints.global_observables

    @property
    def data(self) -> Data:
        """Everything observed."""
        return Data(tuple(term.data for term in self.terms), self.global_observables)

    def with_data(self, data: Data) -> Self:
        """Return the same model with other data; nothing is rebuilt."""
        if len(data.terms) != len(self.terms):
            raise LikelihoodError(
                f"the data belong to {len(data.terms)} terms, the likelihood has {len(self.terms)}",
                expected="data of this likelihood",
            )
        terms = [term.with_data(part) for term, part in zip(self.terms, data.terms, strict=True)]
        return type(self)(terms, global_observables=data.global_observables)

    def with_global_observables(self, values: Mapping[str, float]) -> Self:
        """Return the same model and data with some global observables moved."""
        for name in values:
            if name not in self.global_observables:
                self.index(name)
                raise LikelihoodError(f"parameter {name!r} has no constraint, so no global observable")
        return type(self)(self.terms, global_observables={**self.global_observables, **values})

    def asimov(self, x: Mapping[str, float] | ArrayLike | None = None) -> Self:
        """Return the likelihood of the Asimov data at `x`: expected counts, weighted events, and global
        observables at the parameters' values (starting values by default)."""
        theta = torch.as_tensor(self.vector(x))
        terms = tuple(
            term.expected_data(theta[columns])
            for term, columns in zip(self.terms, self._columns, strict=True)
        )
        return self.with_data(Data(terms, self.constraints.expected(theta)))

    def sample(
        self, x: Mapping[str, float] | ArrayLike | None = None, *, generator: np.random.Generator
    ) -> Data:
        """Draw one data set at `x`, global observables included."""
        theta = torch.as_tensor(self.vector(x))
        terms = tuple(
            term.sample(theta[columns], generator)
            for term, columns in zip(self.terms, self._columns, strict=True)
        )
        return Data(terms, self.constraints.sample(theta, generator))
