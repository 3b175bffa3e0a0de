"""HWM as H-JEPA compares itself with it (arXiv 2604.03208 and 2610.06805): all levels share the latents of a LeWM.

The levels above predict the same latents further ahead under macro actions, and set subgoals among them. SIGReg is of
level 1 alone. Levels, losses and planner are those of ``hierarchy`` and ``hierarchical_planning``.

Shapes: B clips, T states, D latent size, A numbers of an action block.
"""

from __future__ import annotations

from torch import Tensor, nn

from lewm_bench.agents.parts.hierarchical_planning import HierarchicalFamily
from lewm_bench.agents.parts.hierarchy import HierarchicalJEPA, Terms
from lewm_bench.agents.parts.sigreg import sigreg_of
from lewm_bench.core.card import Card
from lewm_bench.train.loop import Step


class HWM(HierarchicalJEPA):
    """Levels that share one space."""

    def level_encoder(self) -> nn.Identity:
        return nn.Identity()

    def terms(self, level: int, z: Tensor, actions: Tensor, step: Step) -> Terms:
        """SIGReg of level 1."""
        del actions
        return {"sigreg": (self.config.weight_at(step.progress), sigreg_of(z, self.config, step))} if level == 1 else {}


class HWMFamily(HierarchicalFamily):
    """``hwm``, and ``hwm:3`` with three levels."""

    model = HWM
    card = Card(
        name="HWM",
        about="a LeWM that also predicts its vectors in longer steps, and plans with these first to find subgoals",
        colour="#594DCC",
        marker="*",
        loss_terms=("prediction", "sigreg", "prediction_2"),
        papers={"HWM": "2604.03208"},
        variants={"3": "HWM (3 levels)"},
        rank=16,
    )


HWM_FAMILY = HWMFamily()
