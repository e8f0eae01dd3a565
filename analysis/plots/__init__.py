"""What the notebooks draw. Each function takes a study and shows one figure or table, or a sentence where there is no
data for it: nothing missing ever becomes a number."""

from mtdiff.results.variants import select_main

from .budgets import draw_over_budgets, find_separation
from .claims import show_claims
from .company import draw_mixers, draw_number_of_tasks, draw_starvation, show_merged
from .comparison import draw_balancings, draw_forest, draw_further_metrics, show_table
from .curves import draw_cosines, draw_layer_cosines, draw_losses
from .deviation import draw_deviation, draw_deviation_by_depth
from .findings import find_answers, find_best, find_best_experts, find_company, find_frontier, find_movers, find_routing
from .frontier import draw_frontier
from .interference import draw_company, draw_gains
from .joint import draw_joint, show_joint
from .loading import load
from .pictures import draw_pictures
from .references import draw_sums, show_references
from .routers import draw_routers
from .variants import draw_over_number, show_variants
from .ways import draw_kept, draw_ways

__all__ = [
    "draw_balancings",
    "draw_company",
    "draw_cosines",
    "draw_deviation",
    "draw_deviation_by_depth",
    "draw_forest",
    "draw_frontier",
    "draw_further_metrics",
    "draw_gains",
    "draw_joint",
    "draw_kept",
    "draw_layer_cosines",
    "draw_losses",
    "draw_mixers",
    "draw_number_of_tasks",
    "draw_over_budgets",
    "draw_over_number",
    "draw_pictures",
    "draw_routers",
    "draw_starvation",
    "draw_sums",
    "draw_ways",
    "find_answers",
    "find_best",
    "find_best_experts",
    "find_company",
    "find_frontier",
    "find_movers",
    "find_routing",
    "find_separation",
    "load",
    "select_main",
    "show_claims",
    "show_joint",
    "show_merged",
    "show_references",
    "show_table",
    "show_variants",
]
