"""Per-group replay buffers: the recent correctness of each group.

A batch holds few samples of a rare group, so its accuracy there is mostly noise. The paper keeps
the last k outcomes of every group and measures the constraint on those.
"""

from __future__ import annotations

import torch
from torch import Tensor


class GroupReplay:
    """Ring buffers of the last ``capacity`` correctness flags of every group.

    All groups live in one ``(G, k)`` tensor and are updated without a loop over groups and
    without reading anything back from the device. The number of hits is kept as an exact integer,
    so a query costs O(G), not O(G k).

    Args:
        num_groups: G.
        capacity: k, outcomes remembered per group (the paper uses 40).
        min_count: A group's accuracy is known once this many outcomes are held. The paper asks
            for a full buffer (``min_count = capacity``).
        device: Where the buffers live.

    Raises:
        ValueError: Unless ``1 <= min_count <= capacity``.
    """

    def __init__(
        self,
        num_groups: int,
        capacity: int,
        min_count: int,
        device: torch.device | str = "cpu",
    ) -> None:
        if not 1 <= min_count <= capacity:
            raise ValueError(f"need 1 <= min_count <= capacity, got {min_count} and {capacity}")
        self.num_groups = num_groups
        self.capacity = capacity
        self.min_count = min_count
        # One spare slot at the end takes what must not be written anywhere.
        self.slots = torch.zeros(num_groups * capacity + 1, dtype=torch.int64, device=device)
        self.cursor = torch.zeros(num_groups, dtype=torch.int64, device=device)
        self.held = torch.zeros(num_groups, dtype=torch.int64, device=device)
        self.hits = torch.zeros(num_groups, dtype=torch.int64, device=device)

    def push(self, correct: Tensor, groups: Tensor) -> None:
        """Append a batch in sample order; each group forgets its oldest outcomes first.

        Args:
            correct: bool, shape ``(B,)``.
            groups: Group ids, int64, shape ``(B, F)``: a sample enters the buffer of each of its
                groups. Of a group with more than k samples in the batch, the last k remain.
        """
        features = groups.shape[1]
        ids, order = torch.sort(groups.reshape(-1), stable=True)
        outcomes = correct.long().repeat_interleave(features)[order]
        arrived = torch.zeros_like(self.held).index_add_(0, ids, torch.ones_like(ids))

        # `rank` is the position of an outcome among those of its group in this batch.
        first = torch.cumsum(arrived, 0) - arrived
        rank = torch.arange(len(ids), device=ids.device) - first[ids]
        survives = rank >= arrived[ids] - self.capacity
        slot = ids * self.capacity + (self.cursor[ids] + rank) % self.capacity
        slot = torch.where(survives, slot, len(self.slots) - 1)

        change = torch.where(survives, outcomes - self.slots[slot], 0)
        self.hits.index_add_(0, ids, change)
        self.slots[slot] = outcomes
        self.cursor = (self.cursor + arrived) % self.capacity
        self.held = (self.held + arrived).clamp_(max=self.capacity)

    def accuracy(self) -> Tensor:
        """Accuracy over each group's buffer, float64, shape ``(G,)``.

        NaN for a group that holds fewer than ``min_count`` outcomes.
        """
        known = self.held >= self.min_count
        mean = self.hits.double() / self.held.clamp(min=1).double()
        return torch.where(known, mean, float("nan"))

    def state_dict(self) -> dict[str, Tensor]:
        """A copy from which :meth:`load_state_dict` restores the buffers exactly."""
        return {name: getattr(self, name).clone() for name in ("slots", "cursor", "held", "hits")}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what :meth:`state_dict` returned.

        Raises:
            RuntimeError: The state is of another number of groups or another capacity.
        """
        for name, tensor in state.items():
            own: Tensor = getattr(self, name)
            if own.shape != tensor.shape:
                raise RuntimeError(
                    f"replay state '{name}' has shape {tuple(tensor.shape)}, "
                    f"expected {tuple(own.shape)}"
                )
            own.copy_(tensor)
