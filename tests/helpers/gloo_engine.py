"""vLLM's side of `gloo_weights`: the backend ``gloo``, for a server that is started with `FLAGS`."""

from vllm.distributed.weight_transfer import WeightTransferEngineFactory
from vllm.distributed.weight_transfer.nccl_engine import NCCLWeightTransferEngine

from helpers.gloo_weights import join, receive


class GlooEngine(NCCLWeightTransferEngine):
    """NCCL's engine with another broadcast; how the weights are loaded is vLLM's."""

    def init_transfer_engine(self, init_info):
        rank = init_info.rank_offset + self.parallel_config.rank
        self.model_update_group = join(init_info.master_port, rank, init_info.world_size)

    def update_weights(self, update_info):
        self.model.load_weights(receive(self.model_update_group, update_info))


class Extension:
    """Named by ``--worker-extension-cls``, which makes vLLM's worker import this file."""


WeightTransferEngineFactory.register_engine("gloo", GlooEngine)
