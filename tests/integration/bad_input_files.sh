# SPDX-License-Identifier: Apache-2.0
# Inputs of the bad-input test, good and bad, made from printf and head.

# le BYTES VALUE: the value as little-endian bytes.
le() {
  local bytes=$1 value=$2 i out=
  for ((i = 0; i < bytes; i++)); do
    printf -v out '%s\\x%02x' "$out" $(((value >> (8 * i)) & 255))
  done
  printf '%b' "$out"
}

# repeat COUNT OCTAL: COUNT bytes of one value.
repeat() { head -c "$1" /dev/zero | tr '\0' "\\$2"; }

# shard FILE MAGIC VERSION COUNT TOKENS: an llm.c header that announces COUNT, and TOKENS tokens 257.
shard() {
  {
    le 4 "$2"
    le 4 "$3"
    le 4 "$4"
    head -c 1012 /dev/zero
    repeat $((2 * $5)) 001
  } >"$1"
}

# safetensors FILE HEADER BYTES: a header and BYTES zero bytes of data.
safetensors() {
  {
    le 8 ${#2}
    printf '%s' "$2"
    head -c "$3" /dev/zero
  } >"$1"
}

# llama_header: the safetensors header of a llama with V 8, D 4, F 4, L 1, H 2 in F32.
llama_header() {
  local at=0 out= entry name shape size
  for entry in model.embed_tokens:8,4 model.layers.0.input_layernorm:4 \
    model.layers.0.self_attn.q_proj:4,4 model.layers.0.self_attn.k_proj:4,4 \
    model.layers.0.self_attn.v_proj:4,4 model.layers.0.self_attn.o_proj:4,4 \
    model.layers.0.post_attention_layernorm:4 model.layers.0.mlp.gate_proj:4,4 \
    model.layers.0.mlp.up_proj:4,4 model.layers.0.mlp.down_proj:4,4 model.norm:4 lm_head:8,4; do
    name=${entry%:*}
    shape=${entry#*:}
    size=$((4 * ${shape/,/*}))
    out+=",\"$name.weight\":{\"dtype\":\"F32\",\"shape\":[$shape],\"data_offsets\":[$at,$((at + size))]}"
    at=$((at + size))
  done
  printf '{%s}' "${out#,}"
}

# hf_config FILE VOCAB HIDDEN LAYERS
hf_config() {
  cat >"$1" <<JSON
{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": $2,
 "hidden_size": $3, "intermediate_size": 4, "num_hidden_layers": $4, "num_attention_heads": 2,
 "num_key_value_heads": 2, "hidden_act": "silu", "max_position_embeddings": 16,
 "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": false,
 "attention_bias": false, "mlp_bias": false, "torch_dtype": "float32"}
JSON
}

# hostile NAME HEADER BYTES: a Hugging Face folder with a good config and these tensors.
hostile() {
  mkdir -p "hf/$1"
  hf_config "hf/$1/config.json" 8 4 1
  safetensors "hf/$1/model.safetensors" "$2" "$3"
}

# tensor SHAPE BEGIN END: an entry of a safetensors header.
tensor() { printf '{"dtype":"F32","shape":[%s],"data_offsets":[%s,%s]}' "$1" "$2" "$3"; }

make_inputs() {
  cat >deck.toml <<'TOML'
[run]
out_dir = "runs/x"
[model]
kind = "llama"
vocab_size = 512
hidden_size = 32
intermediate_size = 64
num_layers = 1
num_heads = 2
[data]
kind = "tokens"
train = ["data/good.bin"]
[train]
steps = 2
global_batch = 8
seq_len = 8
TOML
  : >empty.toml
  printf '[run]\nname = \n' >broken.toml
  cp deck.toml unreadable.toml
  chmod 000 unreadable.toml

  local gpt2=20240520
  shard data/good.bin $gpt2 1 300 300
  shard data/magic.bin 20240521 1 300 300
  shard data/version.bin $gpt2 3 300 300
  shard data/truncated.bin $gpt2 1 300 120
  shard data/longer.bin $gpt2 1 300 310
  shard data/negative.bin $gpt2 1 -5 300
  shard data/few.bin $gpt2 1 20 20
  shard data/short.bin $gpt2 1 5 5
  head -c 100 data/good.bin >data/header.bin
  : >data/empty.bin
  # Token 150 (byte 1024 + 2 * 150) is 600, outside a vocabulary of 512.
  cp data/good.bin data/token.bin
  le 2 600 | dd of=data/token.bin bs=1 seek=1324 conv=notrunc status=none

  mkdir folder used
  printf 'text\n' >file
  local header all
  header=$(llama_header)
  all=752
  hostile good "$header" $all
  hostile overlap "{\"a\":$(tensor 4 0 16),\"b\":$(tensor 4 8 24)}" 24
  hostile outside "{\"a\":$(tensor 4 0 16),\"b\":$(tensor 4 16 32)}" 24
  hostile negative "{\"a\":$(tensor 4 -16 0)}" 16
  hostile overflow "{\"a\":$(tensor 4294967296,4294967296,4294967296 0 16)}" 16
  hostile duplicate "{\"a\":$(tensor 4 0 16),\"a\":$(tensor 4 16 32)}" 32
  hostile json '{"a": [' 16
  hostile short "$header" $((all - 4))
  hostile missing "{\"a\":$(tensor 4 0 16)}" 16
  hostile length "$header" $all
  { le 8 $((1 << 62)); tail -c +9 hf/good/model.safetensors; } >hf/length/model.safetensors
  hostile beyond "$header" $all
  { le 8 90000000; tail -c +9 hf/good/model.safetensors; } >hf/beyond/model.safetensors
  hostile tiny "$header" $all
  printf 'abc' >hf/tiny/model.safetensors
  for name in vocab hidden layers noconfig; do hostile $name "$header" $all; done
  hf_config hf/vocab/config.json 9 4 1
  hf_config hf/hidden/config.json 8 8 1
  hf_config hf/layers/config.json 8 4 2
  rm hf/noconfig/config.json
}
