"""A training step on made-up completions, in as many processes as it is launched in, for `test_trainer.py`.

``spread_run.py BASE DATA OUT SIZE ...`` writes what each size of the batch trains to ``OUT_SIZE.safetensors``.
"""

import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from trl import GRPOConfig

from repic_core.models import load_model
from repic_core.tasks import read_rows, to_dataset
from repic_core.trainer import SharedPrefixGRPOTrainer
from repic_core.training import prepare_tuning, read_recipe


class MadeUp(SharedPrefixGRPOTrainer):
    """Completions that depend on the prompt and on the place in the group, however the rows are spread."""

    def _generate_single_turn(self, prompt_ids, *args, **kwargs):
        start = self.accelerator.process_index * len(prompt_ids)
        completions = []
        for row, ids in enumerate(prompt_ids, start):
            place = row % self.num_generations
            completions.append([100 + (sum(ids) + 7 * place + 3 * i) % 50 for i in range(3 + 2 * place)])
        return completions, None


def reward(completions, **_):
    return [len(completion[0]["content"]) % 5 / 5 for completion in completions]


def main(base, data, out, *batch_sizes):
    for batch_size in map(int, batch_sizes):
        processes = int(os.environ.get("WORLD_SIZE", 1))
        values = {
            "output_dir": out,
            "per_device_train_batch_size": batch_size // processes,
            "num_generations": 4,
            "max_completion_length": 12,
            "loss_type": "dapo",
            "max_steps": 1,
            "warmup_steps": 0,
            "optim": "sgd",
            "learning_rate": 1e-1,
            "shuffle_dataset": False,
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
        }
        tune, config = read_recipe("toy", GRPOConfig, values)
        config.remove_unused_columns = False
        model, processor = load_model(base)
        torch.manual_seed(1)
        trainer = MadeUp(
            model=model,
            reward_funcs=[reward],
            args=config,
            train_dataset=to_dataset(read_rows(Path(data) / "rows.jsonl"), data, 0),
            processing_class=processor,
            peft_config=prepare_tuning(model, processor, tune),
        )
        trainer.train()
        assert trainer.accelerator.num_processes == processes
        if trainer.accelerator.is_main_process:
            trained = trainer.accelerator.unwrap_model(trainer.model).named_parameters()
            trained = {name: p.detach().contiguous() for name, p in trained if p.requires_grad}
            save_file(trained, f"{out}_{batch_size}.safetensors")


if __name__ == "__main__":
    main(*sys.argv[1:])
