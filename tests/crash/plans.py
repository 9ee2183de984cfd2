"""What a round of the crash campaign is: its plan, as the dice have it, and its report.

Owns the dice's choices and their weights: how large, how fast, which faults of the provider, which cap, which edits.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

PEERS: Mapping[str, Mapping[str, Any]] = {
    "small": {"latency_s": "0"},
    "medium": {"latency_s": "0.01-0.15", "payload_kb": 200},
    "large": {"latency_s": "0-0.05", "payload_kb": 1000},
    "slow": {"latency_s": "0.1-0.4", "payload_kb": 60},
}
"""The settings of the simulators; each round has one of them."""
FAULTS = (
    *("status:value=500", "status:value=503", "rate_limit:value=0.05", "rate_limit:value=none"),
    *("cut", "reset", "reset_body", "stall", "truncated_json", "empty", "not_json", "bad_base64", "no_data"),
    *("not_image", "wrong_size", "wrong_format", "truncated_image", "missing_usage", "zero_usage"),
    *("escaped", "gzip", "url"),
)
WORST_MICROUSD = 6_000
"""About what is reserved for one of these images."""
PICTURES_MICROUSD = 70_000
"""About what is reserved for the two pictures that an image starts from, in rounds of edits."""
NAMES = ("{{ prompt_id }}-{{ size }}", "by size/{{ size }}/{{ prompt_id }}", "{{ prompt_id }}/{{ size }}")


@dataclass(frozen=True, slots=True)
class Plan:
    """What the dice have chosen for a round."""

    seed: int
    peer: str
    prompts: int
    sizes: tuple[str, ...]
    concurrency: int
    kills: int
    faults: tuple[str, ...]
    cap_microusd: int | None
    hold: bool
    edits: bool
    two_jobs: bool
    from_pictures: bool
    """Whether every image starts from two pictures and a mask, and is pasted back."""
    per_batch: int | None = None
    """Requests in a batch; None for a job that is made online."""

    @property
    def worst_microusd(self) -> int:
        """About what is reserved for one image."""
        return WORST_MICROUSD + (PICTURES_MICROUSD if self.from_pictures else 0)

    @classmethod
    def thrown(cls, seed: int, peers: Sequence[str] = tuple(PEERS)) -> Plan:
        """The plan of a round with one of these simulators."""
        dice = random.Random(seed)
        prompts = dice.choice([dice.randint(4, 12), dice.randint(4, 40)])
        sizes = ("1024x1024", "1536x1024") if dice.random() < 0.2 else ("1024x1024",)
        faults: tuple[str, ...] = ()
        if dice.random() < 0.35:
            chosen = dice.sample(FAULTS, dice.randint(1, 4))
            faults = tuple(_rule(kind, dice) for kind in chosen)
        two_jobs = dice.random() < 0.2
        cap_share = dice.uniform(0.1, 1.5) if dice.random() < 0.25 else None
        plan = cls(
            seed=seed,
            peer=dice.choice(peers),
            prompts=prompts,
            sizes=sizes,
            concurrency=dice.randint(1, 12),
            kills=dice.randint(1, 6),
            faults=faults,
            cap_microusd=None,
            hold=dice.random() < 0.2,
            edits=dice.random() < 0.4,
            two_jobs=two_jobs,
            from_pictures=dice.random() < 0.35,
            per_batch=dice.randint(1, 8) if dice.random() < 0.2 else None,
        )
        if cap_share is None:
            return plan
        return replace(plan, cap_microusd=round(prompts * len(sizes) * plan.worst_microusd * cap_share))

    def told(self) -> str:
        """The plan in one line."""
        parts = [f"{self.prompts} prompts", f"{len(self.sizes)} sizes", f"{self.concurrency} at a time", self.peer]
        parts += [f"cap {self.cap_microusd} microusd"] if self.cap_microusd is not None else []
        parts += [f"batches of {self.per_batch}"] if self.per_batch is not None else []
        parts += [word for word in ("hold", "edits", "two_jobs", "from_pictures") if getattr(self, word)]
        return ", ".join([*parts, *self.faults])


def _rule(kind: str, dice: random.Random) -> str:
    return f"{kind}{',' if ':' in kind else ':'}share={dice.uniform(0.05, 0.5):.2f},times={dice.randint(1, 6)}"


@dataclass(slots=True)
class Report:
    """What came of a round; `problems` is empty when every law held."""

    plan: Plan
    problems: list[str] = field(default_factory=list)
    story: list[str] = field(default_factory=list)
    kills: int = 0
    runs: int = 0
    by_step: Counter[str] = field(default_factory=Counter)
    by_kind: Counter[str] = field(default_factory=Counter)
    by_phase: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
