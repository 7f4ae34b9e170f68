# SPDX-License-Identifier: Apache-2.0
# The cases of the bad-input test.

# ---- usage ----
refuse "unknown option" 2 "--frobnicate" train deck.toml --frobnicate
refuse "train without a deck" 2 "DECK" train
refuse "option before the command" 2 "none.toml|cannot read the deck" --version=false train none.toml
if ((ranks == 1)); then
  refuse "unknown command" 2 "frobnicate" frobnicate
  SLURM_NTASKS=4 SLURM_PROCID=0 refuse "one rank of four tasks" 2 "SLURM_NTASKS is 4" \
    train deck.toml
fi

# ---- deck ----
refuse "missing deck" 2 "none.toml|cannot read the deck" train none.toml
refuse "folder as deck" 2 "folder|a deck is a TOML file" train folder
refuse "empty deck" 2 "empty.toml|model.kind is missing" train empty.toml
refuse "malformed deck" 2 "broken.toml:2:|not valid TOML" train broken.toml
refuse "shard as deck" 2 "data/good.bin:1:|not valid TOML" train data/good.bin
if ((EUID != 0)); then
  refuse "unreadable deck" 2 "unreadable.toml|Permission denied" train unreadable.toml
fi
refuse_deck "unknown key" "train.stepz|did you mean train.steps?" train.stepz=3
refuse_deck "override without a value" "section.key=value" train.steps
refuse_deck "wrong type" "train.steps|ten|an integer" train.steps=ten
refuse_deck "out of range" "train.global_batch|is 0|from 1" train.global_batch=0
refuse_deck "heads that do not divide" "model.num_heads is 3|model.hidden_size (32)" model.num_heads=3
refuse_deck "key-value heads that do not divide" "model.num_kv_heads is 3|nearest" \
  model.num_heads=4 model.num_kv_heads=3
refuse_deck "odd head_dim" "model.head_dim is 7|even" model.head_dim=7
refuse_deck "micro-batch that does not divide" "train.micro_batch is 3|nearest" train.micro_batch=3
if ((ranks > 1)); then
  refuse_deck "batch that the ranks cannot share" "train.global_batch is 9|$ranks ranks" \
    train.global_batch=9
fi
refuse_deck "sizes that overflow" "parameters" model.hidden_size=16777216 \
  model.intermediate_size=16777216 model.num_layers=65536
refuse_deck "key of the other model kind" "model.width|resnet18" model.width=64
refuse_deck "what this version does not do" "system.comm|built without it" \
  system.comm=nccl
refuse_deck "gradients narrowed from fp64" "system.gradient_wire|run.precision" \
  run.precision=fp64 system.gradient_wire=bf16

# ---- subnetworks ----
accept "run that writes a mask" train deck.toml run.out_dir=masked model.num_layers=2 \
  sdp.regime=forward train.steps=1
mv masked/mask.json data/mask.json
rm -rf masked
refuse_deck "more subnetworks than ranks" "sdp.subnetworks is 16|at most|$ranks" \
  sdp.regime=forward sdp.subnetworks=16 sdp.coverage=0.5
refuse_deck "coverage above 1" "sdp.coverage is 1.5|1" sdp.regime=forward sdp.coverage=1.5
refuse_deck "protection of more than the model" "sdp.protect_first 2 + sdp.protect_last 9|blocks" \
  sdp.regime=forward sdp.protect_first=2 sdp.protect_last=9
refuse_deck "neuron group that does not divide" \
  "sdp.neuron_group is 7|model.intermediate_size|nearest" \
  sdp.regime=forward sdp.level=neuron sdp.neuron_group=7
accept "that neuron group at block level" train deck.toml run.out_dir=accepted sdp.regime=forward \
  sdp.neuron_group=7 train.steps=1
rm -rf accepted
refuse_deck "mask file that is not there" "none.json|no such file" \
  sdp.regime=forward sdp.mask_file=none.json
refuse_deck "deck as mask file" "deck.toml|mask" sdp.regime=forward sdp.mask_file=deck.toml
refuse_deck "mask of another model" "data/mask.json|units" \
  sdp.regime=forward sdp.mask_file=data/mask.json
refuse_deck "mask file beside changing masks" "sdp.mask_file|sdp.remask_every" \
  sdp.regime=forward sdp.mask_file=data/mask.json sdp.remask_every=5
refuse_deck "nodes that the ranks do not fill" "system.ranks_per_node|3|$ranks" \
  system.ranks_per_node=3
if ((ranks == 1)); then
  refuse_deck "one subnetwork that drops units" "sdp.coverage 0.5|sdp.subnetworks 1" \
    sdp.regime=backward sdp.coverage=0.5
else
  refuse_deck "coverage that is no multiple of 1/N" "sdp.coverage 0.3|nearest coverage is 0.25" \
    sdp.regime=forward sdp.subnetworks=4 sdp.coverage=0.3
  refuse_deck "coverage below 1/N" "sdp.coverage 0.1|nearest coverage is 0.25" \
    sdp.regime=backward sdp.level=neuron sdp.subnetworks=4 sdp.coverage=0.1
  refuse_deck "design that does not exist" "plane" \
    sdp.regime=forward sdp.subnetworks=4 sdp.coverage=0.5 sdp.design=plane
  refuse_deck "all-reduce between subnetworks" "system.reduction" \
    sdp.regime=forward sdp.subnetworks=4 sdp.coverage=0.5 system.reduction=allreduce
  refuse_deck "placement that leaves a subnetwork without ranks" "node_aligned" \
    sdp.regime=forward sdp.subnetworks=4 sdp.coverage=0.5 sdp.placement=node_aligned
fi

# ---- data ----
refuse_deck "empty glob" 'data.train|data/none_*.bin' 'data.train=["data/none_*.bin"]'
refuse_deck "empty validation glob" 'data.val|data/none_*.bin' 'data.val=["data/none_*.bin"]'
refuse_deck "folder as shard" "folder" 'data.train=["folder"]'
for fault in magic version truncated longer negative header empty; do
  refuse_deck "shard: $fault" "data/$fault.bin" "data.train=[\"data/$fault.bin\"]"
  refuse_deck "validation shard: $fault" "data/$fault.bin" "data.val=[\"data/$fault.bin\"]"
done
refuse_deck "second shard truncated" "data/truncated.bin" \
  'data.train=["data/good.bin", "data/truncated.bin"]'
refuse_deck "too little data for a batch" "data.train|2 samples|8" 'data.train=["data/few.bin"]'
refuse_deck "too little data for a sample" "data.train" 'data.train=["data/short.bin"]'

touched=runs refuse "token outside the vocabulary" 3 "data/token.bin|600|1324|512" train deck.toml \
  'data.train=["data/token.bin"]' train.steps=20
touched=runs refuse "token outside the vocabulary while weights return" 3 "data/token.bin|600" \
  train deck.toml 'data.train=["data/token.bin"]' train.steps=20 optimizer.sharding=holders
touched=runs refuse "validation token outside the vocabulary" 3 "data/token.bin|600|1324" \
  train deck.toml 'data.val=["data/token.bin"]'
rm -rf runs

# ---- out_dir, resume, initial weights ----
refuse_deck "out_dir is a file" "run.out_dir|file" run.out_dir=file
refuse_deck "out_dir below a file" "run.out_dir|file/x" run.out_dir=file/x
refuse_deck "unwritable out_dir" "run.out_dir|/proc/sdp" run.out_dir=/proc/sdp/x
refuse_deck "missing checkpoint to resume" "none.h5" checkpoint.resume=none.h5
refuse_deck "missing initial weights" "none.safetensors" model.init_from=none.safetensors
refuse_deck "hostile initial weights" "hf/overlap" model.init_from=hf/overlap
accept "a good deck" train deck.toml run.out_dir=used 'data.val=["data/good.bin"]'
refuse_deck "used out_dir" "run.out_dir|used|checkpoint.resume" run.out_dir=used \
  checkpoint.resume=never

# ---- checkpoints ----
saved=used/checkpoints/step-00000002.h5
refuse "evaluation without a checkpoint" 2 "none.h5" eval deck.toml --checkpoint none.h5 \
  'data.val=["data/good.bin"]'
refuse "evaluation of something else" 2 "deck.toml" eval deck.toml --checkpoint deck.toml \
  'data.val=["data/good.bin"]'
if [[ -f $saved ]]; then
  head -c 3000 "$saved" >truncated.h5
  refuse "evaluation of a truncated checkpoint" 3 "truncated.h5" eval deck.toml \
    --checkpoint truncated.h5 'data.val=["data/good.bin"]'
fi

# ---- commands of one process ----
if ((ranks == 1)); then
  # Hugging Face folders
  accept "a good model" import hf/good --out imported.h5
  for fault in overlap outside negative overflow duplicate json short length beyond tiny; do
    refuse "import: $fault" 2 "hf/$fault/model.safetensors" import "hf/$fault" --out new.h5
  done
  refuse "import: tensors are missing" 2 "hf/missing|no tensor" import hf/missing --out new.h5
  refuse "import: vocab_size disagrees" 2 "hf/vocab/config.json|shape [8, 4]|[9, 4]" \
    import hf/vocab --out new.h5
  refuse "import: hidden_size disagrees" 2 "hf/hidden/config.json|shape [8, 4]|[8, 8]" \
    import hf/hidden --out new.h5
  refuse "import: num_hidden_layers disagrees" 2 "hf/layers|model.layers.1" \
    import hf/layers --out new.h5
  refuse "import: no config.json" 2 "hf/noconfig|config.json" import hf/noconfig --out new.h5
  refuse "import: missing folder" 2 "hf/none" import hf/none --out new.h5
  refuse "import: used output" 2 "imported.h5" import hf/good --out imported.h5
  refuse "export: missing checkpoint" 2 "none.h5" export none.h5 --out exported

  # tokenizer
  refuse "tokenize: missing model" 2 "none.model" tokenize --model none.model --out data/new file
  refuse "tokenize: not a model" 2 "deck.toml" tokenize --model deck.toml --out data/new file
  refuse "tokenize: missing text" 2 "none.txt" \
    tokenize --train-model new.model --vocab-size 300 none.txt
fi

if ((ranks > 1)); then
  refuse "a command of one process under a launcher" 2 "info" info used/checkpoints
  refuse "help is not asked of Kokkos" 2 "none.toml" train none.toml --kokkos-disable-warnings
fi

# ---- a full disk ----
# Private mounts: 256 KiB, less than half of the checkpoint of this model, and 4 KiB, which the
# resolved deck alone fills.
if ! unshare -m true 2>/dev/null && ! unshare -rm true 2>/dev/null; then
  skip "a full disk" "private mounts are not permitted"
else
  mkdir full
  namespace=(unshare -m)
  ((EUID != 0)) && namespace=(unshare -rm)
  launch_outside=("${launch[@]}")
  for size in 256k 4k; do
    name="a full disk of $size"
    selected "$name" || continue
    launch=("${namespace[@]}" bash -c "mount -t tmpfs -o size=$size none full &&"' "$@"
      code=$?; find full -name summary.json -o -name latest -o -name "*.h5"; exit $code'
      bash "${launch_outside[@]}")
    refuse "$name" 3 "full/x|No space left" train deck.toml run.out_dir=full/x model.vocab_size=4096
    if grep -q '^full/x' "$scratch/out"; then
      report "a result stays: $(grep '^full/x' "$scratch/out" | tr '\n' ' ')"
    fi
  done
  launch=("${launch_outside[@]}")
fi
