"""`EdgeScan`: no second training, only the best bin edges on the score of the cross-entropy network."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from neyman.errors import ConfigError
from neyman.sannt.binned import BinnedStack
from neyman.sannt.filling import Exact
from neyman.sannt.measurement import Measurement
from neyman.sannt.objective import exact_rows, outputs
from neyman.sannt.rows import Rows

_UNUSABLE = float("inf")


@dataclass(frozen=True)
class EdgeScan:
    """Scan of bin edges in place of a training for the measurement.

    From equal bins on, one edge after the other goes to the best of the grid's places between its neighbours, until
    none moves.

    Parameters
    ----------
    places
        Number of cells of the grid, each with the same expectation.
    sweeps
        Largest number of passes over the edges.
    """

    places: int = 200
    sweeps: int = 20

    def __post_init__(self) -> None:
        if self.places < 3 or self.sweeps < 1:
            raise ConfigError(
                f"a scan needs at least 3 places and 1 sweep, got {self.places} and {self.sweeps}"
            )

    @property
    def filling(self) -> Exact:
        """The histogram of the score."""
        return Exact()

    def run(self, network: BinnedStack, rows: Rows, measurement: Measurement) -> torch.Tensor:
        """Return the best edges of each member, ``(n_members, 1, n_bins + 1)``.

        Raises
        ------
        ConfigError
            When there are several classes, or fewer places than bins.
        """
        edges = network.edges().clone()
        n_bins = edges.shape[2] - 1
        if edges.shape[1] != 1:
            raise ConfigError("a scan of edges needs a single output", fix="use Exact for several classes")
        if self.places < 2 * n_bins:
            raise ConfigError(
                f"{self.places} places are too few to scan {n_bins} bins", fix="give more places"
            )
        with torch.no_grad():
            scores = Exact().scores(outputs(network, rows.x))[..., 0]
        for m, own in enumerate(scores):
            grid = self._grid(own, rows)
            index = torch.bucketize(own, grid, right=True)
            cells = exact_rows(index[None], rows, len(grid) + 1)[0]
            cumulative = torch.cat([torch.zeros_like(cells[:, :1]), cells.cumsum(dim=1)], dim=1)
            start = torch.searchsorted(grid.double(), edges[m, 0, 1:-1])
            chosen = self._descend(cumulative, start + 1, measurement)
            edges[m, 0, 1:-1] = grid[chosen - 1].double()
        return edges

    def _grid(self, scores: torch.Tensor, rows: Rows) -> torch.Tensor:
        """Scores that divide the expectation evenly, each different from the next."""
        weight = torch.cat(
            [
                torch.zeros(size, dtype=torch.float64) if own is None else own[1].abs().double().cpu()
                for size, own in zip(rows.sizes, rows.process, strict=True)
            ]
        )
        ordered, order = scores.cpu().sort()
        share = weight[order].cumsum(dim=0)
        levels = torch.linspace(0.0, 1.0, self.places + 1, dtype=torch.float64)[1:-1] * share[-1]
        grid: torch.Tensor = torch.unique(ordered[torch.searchsorted(share, levels)])
        return grid.to(scores.device)

    def _descend(
        self, cumulative: torch.Tensor, start: torch.Tensor, measurement: Measurement
    ) -> torch.Tensor:
        """Cells at which the inner edges end up."""
        n_cells = cumulative.shape[1] - 1
        places = start.clamp(1, n_cells - 1).tolist()
        for k in range(1, len(places)):  # equal bins can be narrower than a cell
            places[k] = max(places[k], places[k - 1] + 1)
        for k in range(len(places) - 1, -1, -1):
            places[k] = min(places[k], n_cells - len(places) + k)
        best = _UNUSABLE
        for _ in range(self.sweeps):
            moved = False
            for k in range(len(places)):
                low = places[k - 1] + 1 if k else 1
                high = places[k + 1] if k + 1 < len(places) else n_cells
                candidates = torch.arange(low, high)
                all_places = torch.tensor([0, *places, n_cells]).repeat(len(candidates), 1)
                all_places[:, k + 1] = candidates
                values = _values(cumulative, all_places, measurement)
                found = int(values.argmin())
                if float(values[found]) < best - 1e-9:
                    best, places[k], moved = float(values[found]), int(candidates[found]), True
            if not moved:
                break
        return torch.tensor(places)


def _values(cumulative: torch.Tensor, places: torch.Tensor, measurement: Measurement) -> torch.Tensor:
    """Uncertainty for each row of edges, infinite where a fit cannot use the bins."""
    rows = torch.diff(cumulative[:, places.to(cumulative.device)].permute(1, 0, 2), dim=2)
    usable = measurement.usable(rows)
    values = torch.full((len(rows),), _UNUSABLE, dtype=torch.float64, device=rows.device)
    if bool(usable.any()):
        values[usable] = measurement.loss(rows[usable])
    return values
