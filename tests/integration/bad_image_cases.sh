# SPDX-License-Identifier: Apache-2.0
# Image sets and the files of a ResNet-18 that must be refused, each beside a good one of its kind.

# big_endian VALUE: four bytes.
big_endian() {
  printf '%b' "$(printf '\\x%02x' $(($1 >> 24 & 255)) $(($1 >> 16 & 255)) $(($1 >> 8 & 255)) \
    $(($1 & 255)))"
}

# idx FILE BYTES OCTAL EXTENT...: an IDX file of these extents, and BYTES bytes of one value.
idx() {
  local file=$1 bytes=$2 value=$3 extent
  shift 3
  {
    printf '%b' "\\x00\\x00\\x08\\x0$#"
    for extent; do big_endian "$extent"; done
    repeat "$bytes" "$value"
  } >"$file"
}

# image_set NAME: a good one of 24 images of 6 x 5 pixels and class 3.
image_set() {
  idx "images/$1-images-idx3-ubyte" 720 100 24 6 5
  idx "images/$1-labels-idx1-ubyte" 24 003 24
}

# patch FILE OFFSET BYTES: overwrites bytes, given as escapes of printf.
patch() { printf '%b' "$3" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none; }

# cifar FILE LABEL...: records whose labels are these bytes, given as escapes of printf.
cifar() {
  local file=$1 label
  shift
  for label; do
    printf '%b' "$label"
    repeat 3072 100
  done >"$file"
}

mkdir images
cat >images.toml <<'TOML'
[run]
out_dir = "runs/x"
[model]
kind = "resnet18"
in_channels = 1
width = 4
[data]
kind = "idx"
train = ["images/good-images-idx3-ubyte"]
val = ["images/good-images-idx3-ubyte"]
[train]
steps = 1
global_batch = 8
bn_batches = 1
TOML
for name in good alone magic type axes cut tiny empty none short longer overflow labels magic_labels \
  axes_labels fewer wide range packed_short packed_cut; do
  image_set $name
done
end=images-idx3-ubyte
rm images/alone-labels-idx1-ubyte
patch images/magic-$end 0 '\x01'
patch images/type-$end 2 '\x0d'
idx images/axes-$end 120 100 24 5
truncate -s 10 images/cut-$end
truncate -s 3 images/tiny-$end
truncate -s 0 images/empty-$end
idx images/none-$end 0 100 0 6 5
truncate -s 700 images/short-$end
repeat 20 100 >>images/longer-$end
patch images/overflow-$end 4 '\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff'
rm images/labels-$end
patch images/magic_labels-labels-idx1-ubyte 1 '\x02'
idx images/axes_labels-labels-idx1-ubyte 24 003 24 1 1
idx images/fewer-labels-idx1-ubyte 23 003 23
idx images/wide-$end 4752 100 24 6 33
patch images/range-labels-idx1-ubyte 13 '\x0a'
# Compressed: the header is good, what follows is not.
gzip -nc <(head -c 700 images/packed_short-$end) >images/packed_short-$end.gz
rm images/packed_short-$end
gzip -nc <(head -c 16 images/good-$end; head -c 720 "$sdp") >images/packed_cut-$end.gz
truncate -s -40 images/packed_cut-$end.gz
rm images/packed_cut-$end
cp images/good-$end images/pictures-idx3-ubyte
cifar images/ten.bin '\x01' '\x02' '\x03' '\x00' '\x09' '\x04' '\x05' '\x06'
cifar images/hundred.bin '\x01\x63' '\x13\x02' '\x00\x03' '\x04\x04' '\x05\x05' '\x06\x06' '\x07\x07' \
  '\x08\x08'
cifar images/ten_range.bin '\x01' '\x0a'
cifar images/fine_range.bin '\x01\x01' '\x01\x64'
cifar images/coarse_range.bin '\x01\x01' '\x14\x01'
cifar images/cut.bin '\x01' '\x02'
truncate -s -1 images/cut.bin

# refuse_images NAME WORDS OVERRIDES...: `sdp train images.toml OVERRIDES` is refused with code 2.
refuse_images() {
  local name=$1 words=$2
  shift 2
  refuse "$name" 2 "$words" train images.toml "$@"
}

# accept_images NAME OVERRIDES...
accept_images() {
  local name=$1
  shift
  accept "$name" train images.toml --dry-run "$@"
}

# ---- IDX ----
accept "images: a good set" train images.toml run.out_dir=accepted
rm -rf accepted
declare -A image_words=(
  [alone]="alone-$end|no file of labels beside it|alone-labels-idx1-ubyte"
  [magic]="magic-$end|starts with the bytes 1, 0, 8|0, 0, 8"
  [type]="type-$end|starts with the bytes 0, 0, 13|unsigned bytes"
  [axes]="axes-$end|2 axes|3 (images)"
  [cut]="cut-$end|ends at byte 10|inside its IDX header"
  [tiny]="tiny-$end|3 bytes|too few for an IDX header"
  [empty]="empty-$end|is empty|images"
  [none]="none-$end|without an element"
  [short]="short-$end|promises 720 bytes|684 follow"
  [longer]="longer-$end|promises 720 bytes|740 follow"
  [overflow]="overflow-$end|promises|720 follow"
  [magic_labels]="magic_labels-labels-idx1-ubyte|starts with the bytes 0, 2, 8"
  [axes_labels]="axes_labels-labels-idx1-ubyte|3 axes|1 (labels)"
  [fewer]="fewer-labels-idx1-ubyte|23 labels|fewer-$end|24 images"
  [wide]="wide-$end|6 x 33|at most 32 x 32"
)
for fault in "${!image_words[@]}"; do
  refuse_images "images: $fault" "${image_words[$fault]}" "data.train=[\"images/$fault-$end\"]"
done
for fault in short fewer; do
  refuse_images "images: $fault, second file" "${image_words[$fault]}" \
    "data.train=[\"images/good-$end\", \"images/$fault-$end\"]"
  refuse_images "images: $fault, validation" "${image_words[$fault]}" \
    "data.val=[\"images/$fault-$end\"]"
done
refuse_images "images: missing" "data.train|images/nowhere|matches no file" \
  'data.train=["images/nowhere-*"]'
refuse_images "images: missing for validation" "data.val|images/nowhere|matches no file" \
  'data.val=["images/nowhere-*"]'
refuse_images "images: a folder" "data.train|images|folder" 'data.train=["images"]'
refuse_images "images: a name that says nothing of labels" "pictures-idx3-ubyte|images" \
  'data.train=["images/pictures-idx3-ubyte"]'
refuse_images "images: labels in their place" "labels-labels-idx1-ubyte|images" \
  'data.train=["images/labels-labels-idx1-ubyte"]'
refuse_images "images: channels of another model" "good-$end|1 channel|model.in_channels is 3" \
  model.in_channels=3
refuse_images "images: too few for a batch" "data.train|24|train.global_batch = 32" \
  train.global_batch=32
refuse "images: a label out of range" 3 \
  "range-labels-idx1-ubyte|label 10 at byte 13|model.num_classes = 10" \
  train images.toml "data.train=[\"images/range-$end\"]"
refuse "images: a validation label out of range" 3 "range-labels-idx1-ubyte|label 10 at byte 13" \
  train images.toml "data.val=[\"images/range-$end\"]"
accept_images "images: that label with a class more" "data.train=[\"images/range-$end\"]" \
  model.num_classes=11
refuse "images: compressed, too short" 3 "packed_short-$end.gz|end at byte 700|36 more" \
  train images.toml "data.train=[\"images/packed_short-$end.gz\"]"
refuse "images: compressed, cut off" 3 "packed_cut-$end.gz|gzip data is truncated" \
  train images.toml "data.train=[\"images/packed_cut-$end.gz\"]"
refuse "images: evaluation of a short set" 2 "${image_words[short]}" eval images.toml \
  --checkpoint "$saved" "data.val=[\"images/short-$end\"]"

# ---- CIFAR ----
ten=(data.kind=cifar10 model.in_channels=3 'data.val=[]' 'data.train=["images/ten.bin"]')
hundred=(data.kind=cifar100 model.in_channels=3 model.num_classes=100 'data.val=[]'
  'data.train=["images/hundred.bin"]')
accept_images "CIFAR-10: a good file" "${ten[@]}"
accept_images "CIFAR-100: a good file" "${hundred[@]}"
refuse_images "CIFAR-10: short" "images/cut.bin|6145 bytes|3073" "${ten[@]}" \
  'data.train=["images/cut.bin"]'
refuse_images "CIFAR-10: empty" "images/empty-$end|is empty" "${ten[@]}" \
  "data.train=[\"images/empty-$end\"]"
refuse_images "CIFAR-10: a file of CIFAR-100" "images/hundred.bin|CIFAR-10" "${ten[@]}" \
  'data.train=["images/hundred.bin"]'
refuse_images "CIFAR-100: a file of CIFAR-10" "images/ten.bin|CIFAR-100" "${hundred[@]}" \
  'data.train=["images/ten.bin"]'
refuse_images "CIFAR-10: fewer classes" "model.num_classes is 9|10 classes" "${ten[@]}" \
  model.num_classes=9
refuse_images "CIFAR-10: one channel" "images/ten.bin|3 channels|model.in_channels is 1" \
  "${ten[@]}" model.in_channels=1
refuse "CIFAR-10: a label out of range" 3 "images/ten_range.bin|label 10 at byte 3073" \
  train images.toml "${ten[@]}" 'data.train=["images/ten_range.bin"]'
refuse "CIFAR-100: a label out of range" 3 "images/fine_range.bin|label 100 at byte 3075" \
  train images.toml "${hundred[@]}" 'data.train=["images/fine_range.bin"]'
refuse "CIFAR-100: a coarse label out of range" 3 "images/coarse_range.bin|label 20 at byte 3074" \
  train images.toml "${hundred[@]}" 'data.train=["images/coarse_range.bin"]'

# ---- the deck ----
refuse_images "images: tokens for a ResNet" 'data.kind is "tokens"|resnet18' data.kind=tokens
refuse_images "images: a key of the other model kind" "model.hidden_size|llama" \
  model.hidden_size=64
refuse_images "images: channels that do not divide" "sdp.neuron_group is 3|model.width" \
  sdp.regime=forward sdp.level=neuron sdp.neuron_group=3
refuse_images "images: weights of a LLaMA" "model.kind|hf/good" model.init_from=hf/good

# ---- safetensors of a ResNet-18 ----
if ((ranks == 1)); then
  stem="\"conv1.weight\":$(tensor 4,3,3,3 0 432)"
  classifier="\"linear.weight\":$(tensor 10,32 432 1712)"
  hostile_resnet() {
    mkdir -p "resnet/$1"
    safetensors "resnet/$1/model.safetensors" "{$2}" "$3"
    refuse "import of a ResNet: $1" 2 "$4" import "resnet/$1/model.safetensors" --out new.h5
  }
  hostile_resnet missing "$stem,$classifier" 1712 \
    "resnet/missing/model.safetensors|no tensor|CIFAR ResNet-18"
  hostile_resnet classifier "$stem" 432 "resnet/classifier|no tensor \"linear.weight\""
  hostile_resnet stem "\"conv1.weight\":$(tensor 4,3,7,7 0 2352),\"fc.weight\":$(tensor 10 2352 2392)" \
    2392 "resnet/stem|conv1.weight|[4, 3, 7, 7]"
  hostile_resnet wide "\"conv1.weight\":$(tensor 0,3,3,3 0 0),\"linear.weight\":$(tensor 10,32 0 1280)" \
    1280 "resnet/wide|conv1.weight|from 1 to 65536"
fi
