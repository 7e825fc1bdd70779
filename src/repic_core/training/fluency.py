"""An optional reward for fluent text: how likely the reference model finds a completion, on average of its tokens.

The strict rewards can't see word salad that holds the right names and is long enough. The reference model of GRPO's
KL term can, and as its log-probabilities are there anyway, the term costs no further pass. `fluency_weight` in a
recipe turns it on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# Mean log-probabilities, in nats a token. A model's own samples at temperature 1 have about minus its entropy,
# words in random order far less.
FLUENT = -2.0
SALAD = -6.0
COLUMN = "reference_log_prob"


def fluency_reward(
    completions: Sequence[Any], reference_log_prob: Sequence[float], log_metric: Any = None, **columns: Any
) -> list[float]:
    """0 for a completion that the reference model finds fluent, down to -1 for word salad, linearly in between.

    Args:
        completions: not read.
        reference_log_prob: of each completion, its mean log-probability a token (nats) under the reference model,
            after its prompt and photos; from a trainer of `with_reference_log_probs`.

    >>> fluency_reward(["a dog", "a dog", "dog the a"], [-1.0, -3.0, -9.0])
    [0.0, -0.25, -1.0]
    """
    rewards = [max(-1.0, min(0.0, (value - FLUENT) / (FLUENT - SALAD))) for value in reference_log_prob]
    if log_metric and rewards:
        log_metric(COLUMN, sum(reference_log_prob) / len(rewards))
    return rewards


def with_reference_log_probs(trainer: type) -> type:
    """A subclass of a `GRPOTrainer` that gives its reward functions the column `reference_log_prob`.

    TRL computes the reference's log-probabilities directly before the rewards (trl 1.16,
    `_generate_and_score_completions`), if `beta` is not 0.
    """

    class WithReferenceLogProbs(trainer):
        def _get_per_token_logps_and_entropies(
            self,
            model: Any,
            input_ids: Any,
            attention_mask: Any,
            logits_to_keep: int,
            *args: Any,
            **kwargs: Any,
        ) -> Any:
            found = super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, *args, **kwargs
            )
            self._last_pass = found[0].detach(), attention_mask[:, -logits_to_keep:]
            return found

        def _calculate_rewards(self, inputs: list[dict[str, Any]], *args: Any) -> Any:
            log_probs, mask = self._last_pass
            values = ((log_probs * mask).sum(1) / mask.sum(1).clamp(min=1)).tolist()
            rows = [{**row, COLUMN: value} for row, value in zip(inputs, values, strict=True)]
            return super()._calculate_rewards(rows, *args)

    return WithReferenceLogProbs
