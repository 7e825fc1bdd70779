"""A training step on made-up completions, in as many processes as it is launched in, for `test_trainer.py`.

``spread_run.py BASE DATA OUT SIZE ...`` writes, for each batch size, the weights to ``OUT_SIZE.safetensors``.
"""

import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from helpers.stock import make
from repic_core.training.trainer import SharedPrefixGRPOTrainer


class MadeUp(SharedPrefixGRPOTrainer):
    """Completions that depend on the prompt and on the place in the group, however the rows are spread."""

    def _generate_single_turn(self, prompt_ids, *args, **kwargs):
        start = self.accelerator.process_index * len(prompt_ids)
        completions = []
        for row, ids in enumerate(prompt_ids, start):
            place = row % self.num_generations
            completions.append([100 + (sum(ids) + 7 * place + 3 * i) % 50 for i in range(3 + 2 * place)])
        return completions, None


def main(base, data, out, *batch_sizes):
    for batch_size in map(int, batch_sizes):
        processes = int(os.environ.get("WORLD_SIZE", 1))
        trainer = make(
            MadeUp,
            base,
            Path(data),
            out,
            per_device_train_batch_size=batch_size // processes,
            loss_type="dapo",
            max_steps=1,
            learning_rate=1e-1,
            shuffle_dataset=False,
            use_cpu=True,
        )
        trainer.train()
        assert trainer.accelerator.num_processes == processes
        if trainer.accelerator.is_main_process:
            trained = trainer.accelerator.unwrap_model(trainer.model).named_parameters()
            trained = {name: p.detach().contiguous() for name, p in trained if p.requires_grad}
            save_file(trained, f"{out}_{batch_size}.safetensors")
    if torch.distributed.is_initialized():  # a process that ends while gloo's threads run may abort
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
