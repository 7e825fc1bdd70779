"""GRPO from the command line with made-up completions, and with a fault in one process, for `test_distributed.py`.

``spread_recipe.py FAULT ARGUMENTS...`` runs in as many processes as it is launched in; the arguments are those of
`training.grpo`. Sampled completions differ from process to process, since each has its own random state. Those made
up here depend on the prompt and on the place in the group, however the rows are spread.
"""

import os
import signal
import sys

import torch

from repic_core.training import grpo
from repic_core.training.trainer import SharedPrefixGRPOTrainer

ANSWERS = ("yes", "no", "yes it is", "no it is not", "perhaps", "yes yes", "no no no", "it is")


def made_up(self, prompt_ids, *_, **__):
    """Completions; also checks that each group has one prompt, across the processes."""
    start = self.accelerator.process_index * len(prompt_ids)
    tokenizer = self.processing_class.tokenizer
    completions = []
    for row, ids in enumerate(prompt_ids, start):
        place = (row + sum(ids)) % self.num_generations
        completions.append([*tokenizer.encode(ANSWERS[place]), tokenizer.eos_token_id])
    sums = torch.tensor([sum(ids) for ids in prompt_ids])
    groups = self.accelerator.gather(sums).view(-1, self.num_generations)
    assert (groups == groups[:, :1]).all(), "a group of several prompts"
    return completions, None


def fail(kind, step):
    """Make the second of two processes fail in the step after `step`."""
    make_reward = grpo.make_reward

    def failing(*settings):
        reward = make_reward(*settings)

        def personalization(completions, trainer_state=None, **columns):
            if os.environ.get("RANK") == "1" and trainer_state.global_step == step:
                if kind == "raise":
                    raise ZeroDivisionError("on one process")
                os.kill(os.getpid(), signal.SIGKILL)
            return reward(completions, **columns)

        return personalization

    grpo.make_reward = failing


if __name__ == "__main__":
    fault, *arguments = sys.argv[1:]
    SharedPrefixGRPOTrainer._generate_single_turn = made_up
    if fault != "none":
        fail(fault, 3)
    grpo.main(arguments)
