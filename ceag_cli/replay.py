"""Per-group replay buffers: what was last measured on each group.

A batch holds few samples of a rare group, so what it says of that group is mostly noise. The paper
keeps the last k outcomes of every group and measures the constraint on those.
"""

from __future__ import annotations

import torch
from torch import Tensor

LONGEST = 200
"""Outcomes remembered of a large group by default. Longer buffers answer so late that the
multipliers overshoot, shorter ones are mostly noise; docs/choices.md has the measurement."""


class GroupReplay:
    """Ring buffers of the last outcomes of every group.

    All groups live in one flat tensor and are updated without a loop over groups and without
    reading anything back from the device. The sum of what a group holds is kept up to date, so a
    query costs O(G) whatever the buffers' size.

    Args:
        num_groups: G.
        capacity: k, outcomes remembered per group: one number for all (the paper uses 40), or a
            tensor of shape ``(G,)``.
        min_count: A group's mean is known once this many outcomes are held; one number or shape
            ``(G,)``. The paper asks for a full buffer (``min_count = capacity``).
        dtype: int64 for flags (correctness), whose sums are then exact; float64 for losses.
        device: Where the buffers live.

    Raises:
        ValueError: Unless ``1 <= min_count <= capacity`` for every group.
    """

    def __init__(
        self,
        num_groups: int,
        capacity: int | Tensor,
        min_count: int | Tensor,
        dtype: torch.dtype = torch.int64,
        device: torch.device | str = "cpu",
    ) -> None:
        sizes = torch.as_tensor(capacity).expand(num_groups).to(device, torch.int64)
        needed = torch.as_tensor(min_count).expand(num_groups).to(device, torch.int64)
        if not bool(((needed >= 1) & (needed <= sizes)).all()):
            raise ValueError(f"need 1 <= min_count <= capacity, got {min_count} and {capacity}")
        self.num_groups = num_groups
        self.capacity = sizes
        self.min_count = needed
        self.first_slot = torch.cumsum(sizes, 0) - sizes
        # One spare slot at the end takes what must not be written anywhere.
        self.slots = torch.zeros(int(sizes.sum()) + 1, dtype=dtype, device=device)
        self.cursor = torch.zeros(num_groups, dtype=torch.int64, device=device)
        self.held = torch.zeros(num_groups, dtype=torch.int64, device=device)
        self.total = torch.zeros(num_groups, dtype=dtype, device=device)

    @classmethod
    def by_size(cls, count: Tensor, dtype: torch.dtype = torch.int64) -> GroupReplay:
        """Buffers of the groups' sizes, but of 200 outcomes at most; they count when half full.

        Args:
            count: Training images of each group, int64, shape ``(G,)``.
            dtype: See the class.
        """
        capacity = count.clamp(min=1, max=LONGEST)
        return cls(len(count), capacity, (capacity + 1) // 2, dtype, count.device)

    def push(self, outcomes: Tensor, groups: Tensor) -> None:
        """Append a batch in sample order; each group forgets its oldest outcomes first.

        Args:
            outcomes: One number or flag per sample, shape ``(B,)``.
            groups: Group ids, int64, shape ``(B, F)``: a sample enters the buffer of each of its
                groups. Of a group with more samples in the batch than fit, the last remain.
        """
        features = groups.shape[1]
        ids, order = torch.sort(groups.reshape(-1), stable=True)
        values = outcomes.to(self.slots.dtype).repeat_interleave(features)[order]
        arrived = torch.zeros_like(self.held).index_add_(0, ids, torch.ones_like(ids))

        # `rank` is the position of an outcome among those of its group in this batch.
        rank = torch.arange(len(ids), device=ids.device) - (torch.cumsum(arrived, 0) - arrived)[ids]
        size = self.capacity[ids]
        survives = rank >= arrived[ids] - size
        slot = self.first_slot[ids] + (self.cursor[ids] + rank) % size
        slot = torch.where(survives, slot, len(self.slots) - 1)

        self.total.index_add_(0, ids, torch.where(survives, values - self.slots[slot], 0))
        self.slots[slot] = values
        self.cursor.add_(arrived).remainder_(self.capacity)
        torch.minimum(self.held.add_(arrived), self.capacity, out=self.held)

    def mean(self) -> Tensor:
        """Mean over what each group holds, float64, shape ``(G,)``.

        NaN for a group that holds fewer than ``min_count`` outcomes.
        """
        mean = self.total.double() / self.held.clamp(min=1).double()
        return torch.where(self.held >= self.min_count, mean, float("nan"))

    def state_dict(self) -> dict[str, Tensor]:
        """A copy from which :meth:`load_state_dict` restores the buffers exactly."""
        return {name: getattr(self, name).clone() for name in ("slots", "cursor", "held", "total")}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what :meth:`state_dict` returned.

        Raises:
            RuntimeError: The state is of another number of groups or other capacities.
        """
        for name, tensor in state.items():
            own: Tensor = getattr(self, name)
            if own.shape != tensor.shape:
                raise RuntimeError(
                    f"replay state '{name}' has shape {tuple(tensor.shape)}, "
                    f"expected {tuple(own.shape)}"
                )
            own.copy_(tensor)
