"""What the attention of a model looks at: every layer and head, of texts of any length."""

from pyattn.explain.attended import Attended, watch
from pyattn.explain.flow import rollout
from pyattn.explain.pages import page

__all__ = ["Attended", "page", "rollout", "watch"]
