"""What the attention of a model looks at: every layer and head, of texts of any length."""

from pyattn.explain.along import plot_along
from pyattn.explain.attended import Attended, watch
from pyattn.explain.flow import rollout
from pyattn.explain.grids import plot_heads, plot_layers
from pyattn.explain.pages import page
from pyattn.explain.pictures import plot_alignment, plot_heat, plot_lines

__all__ = [
    "Attended",
    "page",
    "plot_alignment",
    "plot_along",
    "plot_heads",
    "plot_heat",
    "plot_layers",
    "plot_lines",
    "rollout",
    "watch",
]
