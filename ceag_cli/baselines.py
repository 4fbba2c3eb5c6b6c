"""The methods that CEAG is compared with, in the same shape: outcome in, sample weights out."""

import torch
from torch import Tensor

from ceag_cli.groups import BatchOutcome


class NaiveFineTuning:
    """Plain fine-tuning of the mean loss, blind to groups (empirical risk minimisation)."""

    def weights(self, batch: BatchOutcome) -> Tensor:
        """Equal weights that add up to one, shape ``(B,)``."""
        return torch.full_like(batch.loss, 1.0 / len(batch.loss))

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """Nothing outlives a step."""
        return {}

    def load_state_dict(self, state: dict[str, dict[str, Tensor]]) -> None:
        """Nothing to restore."""
