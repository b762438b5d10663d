"""`Likelihood`: terms joined by parameter name, with each constraint counted once."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from neyman.errors import LikelihoodError, nearest
from neyman.likelihood.constraints import ConstraintTerm
from neyman.likelihood.parameters import Parameter, merge
from neyman.likelihood.term import Derivatives, Term

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Data:
    """Everything observed, or a batch of it.

    Parameters
    ----------
    terms
        One entry a term, in the term's own form.
    global_observables
        Values of the global observables by parameter name; arrays of shape ``(n_rows,)`` in a batch.
    n_rows
        Number of data sets in a batch; None for a single data set.
    """

    terms: tuple[Any, ...]
    global_observables: Mapping[str, float | Array]
    n_rows: int | None = None

    def rows(self, index: NDArray[np.intp]) -> Data:
        """Return some rows of a batch."""
        return Data(
            tuple(
                part[torch.from_numpy(index)]
                if isinstance(part, torch.Tensor)
                else tuple(part[i] for i in index)
                for part in self.terms
            ),
            {name: np.asarray(values)[index] for name, values in self.global_observables.items()},
            len(index),
        )

    def row(self, i: int) -> Data:
        """Return one data set of a batch."""
        return Data(
            tuple(part[i] for part in self.terms),
            {name: float(np.asarray(values)[i]) for name, values in self.global_observables.items()},
        )


class Likelihood:
    r"""Product of independent terms and of the constraints of their nuisance parameters.

    .. math:: -2\ln L(\theta) = \sum_t -2\ln L_t(\theta) + \sum_k -2\ln c(a_k | \theta_k)

    Parameters of the same name in several terms are one parameter, and its constraint counts once.

    Parameters
    ----------
    terms
        Binned, Gaussian and unbinned terms.
    global_observables
        Values that replace the constraints' own, by parameter name.
    poi
        Name of the parameter of interest, where the document says it.

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
    n_rows
        Number of data sets when the data are a batch, else None.
    device
        Where the tensors are.
    """

    errordef = 1.0

    def __init__(
        self,
        terms: Sequence[Term],
        *,
        global_observables: Mapping[str, float | Array] | None = None,
        poi: str | None = None,
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
        self._columns = [self._positions(term) for term in self.terms]
        self.constraints = ConstraintTerm(self.parameters, global_observables or {})
        self.device = torch.device("cpu")
        self.n_rows: int | None = None
        self.poi = poi if poi in self._position else None

    def _positions(self, term: Term) -> torch.Tensor | None:
        """Return where the parameters of a term stand among all; None where they are all, in order."""
        names = tuple(p.name for p in term.parameters)
        if names == self.names:
            return None
        return torch.tensor([self._position[name] for name in names], dtype=torch.long)

    def _of(self, theta: torch.Tensor) -> list[torch.Tensor]:
        return [theta if columns is None else theta[..., columns] for columns in self._columns]

    # Building ---------------------------------------------------------------------------------------------

    @classmethod
    def from_pyhf(
        cls,
        spec: Any,
        data: ArrayLike | None = None,
        measurement: str | None = None,
        *,
        normsys: str | None = None,
        histosys: str | None = None,
    ) -> Self:
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
        normsys, histosys
            Interpolation codes, ``code4`` or ``code1``, and ``code4p``, ``code0`` or ``code2``; by default those
            of a ``pyhf.Model``, else ``code4`` and ``code4p``.

        Raises
        ------
        WorkspaceError
            When the document cannot be read, fails the schema, or describes an impossible model.
        LikelihoodError
            When the data have the wrong length, none are given, or a code is unknown.
        """
        from neyman.likelihood.histfactory import binned_term

        term, global_observables = binned_term(
            spec, data=data, measurement=measurement, normsys=normsys, histosys=histosys
        )
        return cls([term], global_observables=global_observables, poi=term.poi)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        prefer: Literal["unbinned", "binned"] = "unbinned",
        measurement: str | None = None,
        memory_budget: int | str | None = None,
        client: Any = None,
    ) -> Self:
        """Read a workspace folder (binned, unbinned and Gaussian channels) or one of its documents.

        Parameters
        ----------
        path
            Folder with ``binned.json``, ``unbinned.json`` or ``gaussian.json``, or several, or a single JSON file.
        prefer
            Which description is used where a channel exists in both forms over the same events.
        measurement
            Name of the measurement in all documents; the first of each by default.
        memory_budget
            Bytes, or a text such as ``"1 GB"``: events that need more are streamed from their files at every
            evaluation. By default all events are read into memory.
        client
            A ``distributed.Client``, such as `neyman.cluster.connect` gives: its workers read the events of large
            files and keep them, and each evaluation is one message to all of them, or two where the reference is
            large too (`neyman.likelihood.distributed`).

        Raises
        ------
        WorkspaceError
            When a document cannot be read, fails its schema, or has no such measurement.
        LikelihoodError
            When the documents do not fit together, or the events cannot be evaluated.
        """
        from neyman.likelihood.load import load_terms

        terms, global_observables, poi = load_terms(path, prefer, measurement, memory_budget, client)
        return cls(terms, global_observables=global_observables, poi=poi)

    # Evaluating -------------------------------------------------------------------------------------------

    def evaluate(
        self, x: ArrayLike, order: int = 0, *, strict: bool = True
    ) -> tuple[Array, Array | None, Array | None]:
        """Return ``-2 ln L`` with its gradient (`order` 1) and Hessian (`order` 2).

        Parameters
        ----------
        x
            Shape ``(n_parameters,)`` or ``(n_batch, n_parameters)``. With a batch of data sets, row i goes with
            data set i.
        order
            0, 1 or 2.
        strict
            Whether an undefined likelihood is an error; if not, such a row has the value ``+inf`` and
            derivatives NaN.

        Raises
        ------
        LikelihoodError
            When `x` has the wrong length or is not finite, or when a bin or the density of an event is not
            positive.
        """
        theta = torch.tensor(np.asarray(x, dtype=np.float64))
        if theta.ndim not in (1, 2) or theta.shape[-1] != len(self.names):
            raise LikelihoodError(
                f"expected {len(self.names)} parameter values, got an array of shape {tuple(theta.shape)}",
                expected=f"shape ({len(self.names)},) or (n_batch, {len(self.names)}), ordered as {self.names[:4]}...",
            )
        if self.n_rows is not None and theta.shape[:-1] != (self.n_rows,):
            raise LikelihoodError(
                f"the likelihood holds {self.n_rows} data sets, got parameters of shape {tuple(theta.shape)}",
                expected=f"one row a data set: shape ({self.n_rows}, {len(self.names)})",
            )
        if not bool(torch.isfinite(theta).all()):
            bad = sorted({int(i) for i in torch.nonzero(~torch.isfinite(theta))[:, -1]})
            raise LikelihoodError(
                f"parameter {', '.join(self.names[i] for i in bad)} is not finite", expected="finite values"
            )
        total = self.derivatives(theta.to(self.device), order, strict=strict)
        return (
            total.value.cpu().numpy(),
            None if total.gradient is None else total.gradient.cpu().numpy(),
            None if total.hessian is None else total.hessian.cpu().numpy(),
        )

    def derivatives(self, theta: torch.Tensor, order: int = 0, *, strict: bool = True) -> Derivatives:
        """Return what :meth:`evaluate` returns as tensors on the likelihood's device; `theta` is not checked."""
        total = self.constraints.evaluate(theta, order, strict=strict)
        value, gradient, hessian = total.value, total.gradient, total.hessian
        for term, columns in zip(self.terms, self._columns, strict=True):
            if columns is None:
                part = term.evaluate(theta, order, strict=strict)
                value = value + part.value
                gradient = None if gradient is None or part.gradient is None else gradient + part.gradient
                hessian = None if hessian is None or part.hessian is None else hessian + part.hessian
                continue
            part = term.evaluate(theta[..., columns], order, strict=strict)
            value = value + part.value
            if gradient is not None and part.gradient is not None:
                gradient = gradient.index_add(-1, columns, part.gradient)
            if hessian is not None and part.hessian is not None:
                block = theta.new_zeros(*theta.shape, len(columns)).index_add(-2, columns, part.hessian)
                hessian = hessian.index_add(-1, columns, block)
        return Derivatives(value, gradient, hessian)

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
    def global_observables(self) -> dict[str, float | Array]:
        """Observed values of the constraints by parameter name."""
        return dict(self.constraints.global_observables)

    @property
    def data(self) -> Data:
        """Everything observed."""
        return Data(tuple(term.data for term in self.terms), self.global_observables, self.n_rows)

    def with_data(self, data: Data) -> Self:
        """Return the same model with other data, or with a batch of them; nothing is rebuilt.

        Raises
        ------
        LikelihoodError
            When the data do not belong to the likelihood's terms.
        """
        if len(data.terms) != len(self.terms):
            raise LikelihoodError(
                f"the data belong to {len(data.terms)} terms, the likelihood has {len(self.terms)}",
                expected="data of this likelihood",
            )
        same = copy.copy(self)
        same.terms = tuple(term.with_data(part) for term, part in zip(self.terms, data.terms, strict=True))
        same.constraints = self.constraints.with_observed(data.global_observables)
        same.n_rows = data.n_rows
        return same

    def stack(self, data: Sequence[Data]) -> Data:
        """Join data sets into a batch for :meth:`with_data`."""
        return Data(
            tuple(term.stack([one.terms[i] for one in data]) for i, term in enumerate(self.terms)),
            {
                name: np.array([one.global_observables[name] for one in data], dtype=np.float64)
                for name in self.constraints.names
            },
            len(data),
        )

    def with_global_observables(self, values: Mapping[str, float]) -> Self:
        """Return the same model and data with some global observables moved."""
        for name in values:
            if name not in self.constraints.names:
                self.index(name)
                raise LikelihoodError(f"parameter {name!r} has no constraint, so no global observable")
        same = copy.copy(self)
        same.constraints = self.constraints.with_observed(values)
        return same

    def asimov(self, x: Mapping[str, float] | ArrayLike | None = None) -> Self:
        """Return the likelihood of the Asimov data at `x`: expected counts, weighted events, and global
        observables at the parameters' values (starting values by default)."""
        theta = torch.as_tensor(self.vector(x)).to(self.device)
        parts = zip(self.terms, self._of(theta), strict=True)
        return self.with_data(
            Data(tuple(term.expected_data(part) for term, part in parts), self.constraints.expected(theta))
        )

    def sampler(
        self, x: Mapping[str, float] | ArrayLike | None = None
    ) -> Callable[[np.random.Generator], Data]:
        """Return a function that draws one data set at `x`, global observables included."""
        theta = torch.as_tensor(self.vector(x)).to(self.device)
        draws = [term.sampler(part) for term, part in zip(self.terms, self._of(theta), strict=True)]
        constraints = self.constraints.sampler(theta)

        def draw(generator: np.random.Generator) -> Data:
            return Data(tuple(term(generator) for term in draws), constraints(generator))

        return draw

    def sample(
        self, x: Mapping[str, float] | ArrayLike | None = None, *, generator: np.random.Generator
    ) -> Data:
        """Draw one data set at `x`, global observables included."""
        return self.sampler(x)(generator)

    def to(self, device: torch.device | str) -> Self:
        """Return the same likelihood with its tensors on a device; arguments and results stay NumPy arrays."""
        same = copy.copy(self)
        same.device = torch.device(device)
        same.terms = tuple(term.to(device) for term in self.terms)
        same.constraints = self.constraints.to(device)
        same._columns = [None if columns is None else columns.to(device) for columns in self._columns]
        return same
