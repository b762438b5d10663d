"""`crossing`: where a profile likelihood reaches a level, in few evaluations."""

from __future__ import annotations

import math
from collections.abc import Callable

_CLOSE = 1e-5


def crossing(
    rise: Callable[[float], float], centre: float, step: float, limit: float, level: float = 1.0
) -> float | None:
    r"""Return the value nearest to `centre` on the side of `step` where `rise` equals `level`.

    The root :math:`\sqrt{\mathrm{rise}}` is close to a straight line, so regula falsi in it (with the Illinois
    modification, which keeps the bracket shrinking) needs about three evaluations for a part in 10^5.

    Parameters
    ----------
    rise
        :math:`-2\ln L`, minimised over everything else, above the minimum at `centre`; NaN where it failed.
    centre
        Best fit.
    step
        First guess of the distance, with its sign.
    limit
        Bound on that side.
    level
        Rise that is looked for.

    Returns
    -------
    float or None
        None when the level is not reached at `limit`, or when `rise` failed.
    """
    goal = math.sqrt(level)

    def excess(x: float) -> float:
        return math.sqrt(max(rise(x), 0.0)) - goal if x != centre else -goal

    def clipped(x: float) -> float:
        return min(x, limit) if step > 0.0 else max(x, limit)

    near, low = centre, -goal
    far = clipped(centre + step)
    high = excess(far)
    while high < 0.0:
        if far == limit:
            return None
        slope = (high - low) / (far - near)
        stride = -1.05 * high / slope if slope * step > 0.0 else 2.0 * (far - centre)
        longest = 4.0 * (far - centre)
        near, low = far, high
        far = clipped(far + (stride if abs(stride) < abs(longest) else longest))
        high = excess(far)
    moved = 0.0
    for _ in range(40):
        if not math.isfinite(high) or abs(high) < _CLOSE * goal:
            break
        middle = (near * high - far * low) / (high - low)
        value = excess(middle)
        if abs(value) < _CLOSE * goal:
            return middle
        if value < 0.0:
            near, low, high = middle, value, 0.5 * high if moved < 0.0 else high
        else:
            far, high, low = middle, value, 0.5 * low if moved > 0.0 else low
        moved = value
    return far if math.isfinite(high) else None
