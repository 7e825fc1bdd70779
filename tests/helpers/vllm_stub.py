"""A stub of vLLM's server, as far as TRL's client talks to one: a copy of the base samples the completions."""

import base64
import json
import threading
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO

import torch
from PIL import Image

from helpers.gloo_weights import join, receive
from repic_core.models.loading import load_model

INFO = {
    "weight_transfer_config": {"backend": "gloo"},
    "model_config": {"logprobs_mode": "processed_logprobs"},
}


class Stub:
    """What the server is asked for (`calls`, `announced`, `requests`, `photos`), and its answers."""

    def __init__(self, base):
        self.model, self.processor = load_model(base)
        self.model.eval()
        self.calls = Counter()
        self.announced, self.requests, self.photos = [], [], []
        self.lock = threading.Lock()  # torch has one random generator for all threads

    def answer(self, path, body):
        with self.lock:
            self.calls[path] += 1
            return getattr(self, path.strip("/").replace("/", "_"))(body)

    def health(self, _):
        return {}

    def v1_models(self, _):
        return {"data": [{"id": "base"}]}

    def server_info(self, _):
        return {"vllm_config": INFO}

    def get_world_size(self, _):
        return {"world_size": 1}

    def init_weight_transfer_engine(self, body):
        info = body["init_info"]
        self.group = join(info["master_port"], info["rank_offset"], info["world_size"])
        return {}

    start_weight_update = finish_weight_update = health

    def update_weights(self, body):
        info = body["update_info"]
        weights = dict(receive(self.group, info))
        self.announced.append({name: (t.dtype, tuple(t.shape)) for name, t in weights.items()})
        self.model.load_state_dict(weights, strict=False)
        return {}

    def reset_prefix_cache(self, _):
        return {"success": True}

    def v1_chat_completions_render(self, body):
        parts = [part["image_url"]["url"] for part in body["messages"][0]["content"]]
        photos = [Image.open(BytesIO(base64.b64decode(url.partition(",")[2]))) for url in parts]
        self.photos.append(photos)
        grids = self.processor.image_processor(photos, return_tensors="pt")["image_grid_thw"]
        # Offsets are those of the server's own prompt.
        lengths = (grids.prod(-1) // self.processor.image_processor.merge_size**2).tolist()
        places = [{"offset": 0, "length": length} for length in lengths]
        return {"features": {"number": len(self.photos) - 1, "mm_placeholders": {"image": places}}}

    @torch.no_grad()
    @torch.random.fork_rng()
    def inference_v1_generate(self, body):
        self.requests.append(body)
        ids, sampling, features = body["token_ids"], body["sampling_params"], body["features"]
        image = self.model.config.image_token_id
        runs = features["mm_placeholders"]["image"]
        assert [i for run in runs for i in range(run["offset"], run["offset"] + run["length"])] == [
            i for i, token in enumerate(ids) if token == image
        ]
        torch.manual_seed(sum(ids))
        seen = self.processor.image_processor(self.photos[features["number"]], return_tensors="pt")
        prompt = torch.tensor([ids])
        found = self.model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            mm_token_type_ids=(prompt == image).long(),
            **seen,
            do_sample=True,
            temperature=sampling["temperature"],
            top_k=sampling["top_k"],
            top_p=sampling["top_p"],
            max_new_tokens=sampling["max_tokens"],
            num_return_sequences=sampling["n"],
            suppress_tokens=[int(token) for token in sampling.get("logit_bias", {})] or None,
            return_dict_in_generate=True,
            output_logits=True,
        )
        tokens = found.sequences[:, len(ids) :]
        logits = torch.stack(found.logits, 1) / sampling["temperature"]
        scores = logits.log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
        return {
            "choices": [self._choice(*both) for both in zip(tokens.tolist(), scores.tolist(), strict=True)]
        }

    def _choice(self, tokens, scores):
        end = self.processor.tokenizer.eos_token_id
        length = tokens.index(end) + 1 if end in tokens else len(tokens)
        content = [
            {"token": f"token_id:{token}", "logprob": score, "top_logprobs": []}
            for token, score in zip(tokens[:length], scores[:length], strict=True)
        ]
        return {"token_ids": tokens[:length], "logprobs": {"content": content}}


@contextmanager
def serving(stub):
    """Address at which `stub` answers."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            answer = json.dumps(stub.answer(self.path.partition("?")[0], json.loads(body or "{}"))).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_POST

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
