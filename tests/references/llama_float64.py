# SPDX-License-Identifier: Apache-2.0
"""A LLaMA written out in plain PyTorch operations, in whatever precision its weights have.

transformers computes rotary angles, RMSNorm statistics and the softmax in float32 even when the
model is in float64, so it cannot serve as a float64 reference itself. This model computes all of it
in the weights' precision; `compare_with_transformers` shows that both are the same function.

Names and shapes are those of Hugging Face's LlamaForCausalLM: V vocabulary, D hidden, F
intermediate, L layers, H heads, K kv heads, h head_dim, (B, T) tokens.
"""

from dataclasses import asdict, dataclass

import torch


@dataclass(frozen=True)
class Shape:
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-5
    tie_word_embeddings: bool = False

    def config(self):
        """config.json of the model, in the form that both old and new transformers read."""
        rope = {"rope_type": "default", "rope_theta": self.rope_theta}
        return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", **asdict(self),
                "hidden_act": "silu", "attention_bias": False, "mlp_bias": False,
                "initializer_range": 0.02, "torch_dtype": "float32", "rope_scaling": None,
                "rope_parameters": rope}

    def parameters(self):
        """Name -> shape of every tensor of the checkpoint, in a fixed order."""
        d, f, h = self.hidden_size, self.intermediate_size, self.head_dim
        q, kv = self.num_attention_heads * h, self.num_key_value_heads * h
        shapes = {"model.embed_tokens.weight": (self.vocab_size, d)}
        for i in range(self.num_hidden_layers):
            layer = f"model.layers.{i}."
            shapes |= {layer + "input_layernorm.weight": (d,),
                       layer + "self_attn.q_proj.weight": (q, d),
                       layer + "self_attn.k_proj.weight": (kv, d),
                       layer + "self_attn.v_proj.weight": (kv, d),
                       layer + "self_attn.o_proj.weight": (d, q),
                       layer + "post_attention_layernorm.weight": (d,),
                       layer + "mlp.gate_proj.weight": (f, d),
                       layer + "mlp.up_proj.weight": (f, d),
                       layer + "mlp.down_proj.weight": (d, f)}
        shapes["model.norm.weight"] = (d,)
        if not self.tie_word_embeddings:
            shapes["lm_head.weight"] = (self.vocab_size, d)
        return shapes


def draw_weights(shape, generator, std):
    """Weights drawn in float32, so that the float32 file holds exactly what float64 computed with."""
    weights = {}
    for name, size in shape.parameters().items():
        noise = torch.randn(size, generator=generator, dtype=torch.float32)
        weights[name] = 1.0 + 0.1 * noise if len(size) == 1 else std * noise
    return weights


def rms_norm(x, weight, eps):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


def rotate(x, theta):
    """Rotary embedding of (B, n, T, h), pairs (j, j + h/2)."""
    steps, h = x.shape[-2:]
    frequency = theta ** (-torch.arange(0, h, 2, dtype=x.dtype) / h)
    angle = torch.arange(steps, dtype=x.dtype)[:, None] * frequency
    cos, sin = torch.cos(angle).repeat(1, 2), torch.sin(angle).repeat(1, 2)
    half = torch.cat((-x[..., h // 2:], x[..., :h // 2]), dim=-1)
    return x * cos + half * sin


def forward(shape, weights, tokens):
    """Logits (B, T, V) of tokens (B, T)."""
    batch, steps = tokens.shape
    heads, kv, h = shape.num_attention_heads, shape.num_key_value_heads, shape.head_dim
    eps = shape.rms_norm_eps
    hidden = torch.triu(torch.full((steps, steps), float("-inf")), diagonal=1)
    x = weights["model.embed_tokens.weight"][tokens]
    for i in range(shape.num_hidden_layers):
        def w(name, layer=i):
            return weights[f"model.layers.{layer}.{name}.weight"]

        def split(y, n):
            return y.view(batch, steps, n, h).transpose(1, 2)

        y = rms_norm(x, w("input_layernorm"), eps)
        q = rotate(split(y @ w("self_attn.q_proj").T, heads), shape.rope_theta)
        k = rotate(split(y @ w("self_attn.k_proj").T, kv), shape.rope_theta)
        v = split(y @ w("self_attn.v_proj").T, kv)
        k, v = (z.repeat_interleave(heads // kv, dim=1) for z in (k, v))
        scores = q @ k.transpose(-1, -2) * h ** -0.5 + hidden.to(x.dtype)
        y = (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, steps, heads * h)
        x = x + y @ w("self_attn.o_proj").T
        y = rms_norm(x, w("post_attention_layernorm"), eps)
        y = torch.nn.functional.silu(y @ w("mlp.gate_proj").T) * (y @ w("mlp.up_proj").T)
        x = x + y @ w("mlp.down_proj").T
    x = rms_norm(x, weights["model.norm.weight"], eps)
    head = "model.embed_tokens.weight" if shape.tie_word_embeddings else "lm_head.weight"
    return x @ weights[head].T


def mean_loss(logits, targets):
    """Mean negative log-likelihood over all targets, in nats."""
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def loss_and_gradients(shape, weights, tokens, targets):
    leaves = {name: w.detach().clone().requires_grad_() for name, w in weights.items()}
    logits = forward(shape, leaves, tokens)
    loss = mean_loss(logits, targets)
    gradients = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values()))))
    return logits.detach(), loss.detach(), gradients


def relative_error(a, b):
    a, b = a.detach().double(), b.detach().double()
    return float((a - b).norm() / b.norm()) if b.norm() > 0 else float((a - b).norm())


def compare_with_transformers(shape, weights, tokens, targets, tolerance):
    """Raises unless transformers, in float32, agrees in logits, loss and every gradient."""
    from transformers import LlamaConfig, LlamaForCausalLM
    config = {k: v for k, v in shape.config().items()
              if k not in ("architectures", "model_type", "torch_dtype", "rope_scaling")}
    model = LlamaForCausalLM(LlamaConfig(**config, attn_implementation="eager")).float()
    state = dict(weights)
    if shape.tie_word_embeddings:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state)
    logits = model(tokens).logits
    loss = mean_loss(logits, targets)
    loss.backward()
    ours = loss_and_gradients(shape, {k: w.double() for k, w in weights.items()}, tokens, targets)
    errors = {"logits": relative_error(logits, ours[0]), "loss": relative_error(loss, ours[1])}
    for name, parameter in model.named_parameters():
        if name in ours[2]:
            errors[name] = relative_error(parameter.grad, ours[2][name])
    if set(errors) != {"logits", "loss", *weights}:
        raise SystemExit(f"transformers has other tensors: {sorted(set(weights) ^ set(errors))}")
    worst = max(errors, key=errors.get)
    if not errors[worst] <= tolerance:
        raise SystemExit(f"{worst} differs from transformers by {errors[worst]:.2e}, "
                         f"more than {tolerance:.0e}")
    return errors[worst]
