# SPDX-License-Identifier: Apache-2.0
# Damaged checkpoints, and disks that refuse, for every command that reads or writes one model.
# Expects the run of the case "a good deck" in used/.

saved=used/checkpoints/step-00000002.h5
norm=model/model.norm.weight
mkdir damaged

# flip FILE OFFSET: turns a byte of the file around.
flip() {
  local byte
  byte=$(od -An -tu1 -j "$2" -N 1 "$1")
  printf '%b' "$(printf '\\x%02x' $((byte ^ 16)))" |
    dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}

# place_of FILE PATTERN: byte offset of the first match of a Perl pattern.
place_of() { grep -obUaP -m 1 "$2" "$1" | head -n 1 | cut -d : -f 1; }

for fault in weights header truncated missing version foreign; do
  [[ $fault == foreign ]] || cp "$saved" damaged/$fault.h5
done
# The final norm of this model has 32 weights near 1.
flip damaged/weights.h5 "$(place_of damaged/weights.h5 '([^\x00-\x02]..\x3f){24}')"
# A name inside the header of the file itself.
flip damaged/header.h5 "$(place_of damaged/header.h5 'written_by')"
truncate -s -1000 damaged/truncated.h5
"$damage" missing damaged/missing.h5 $norm
"$damage" version damaged/version.h5 999
"$damage" foreign damaged/foreign.h5
printf 'step-00000077.h5\n' >damaged/latest

declare -A words=(
  [weights]="damaged/weights.h5|is damaged|checksum of elements"
  [header]="damaged/header.h5|checksum"
  [truncated]="damaged/truncated.h5|truncated file"
  [missing]="damaged/missing.h5|no dataset /$norm"
  [version]="damaged/version.h5|format version 999|1 to"
  [foreign]="damaged/foreign.h5|no sdp checkpoint"
  [latest]="damaged/latest|not an HDF5 file"
)

accept "evaluation of a good checkpoint" eval deck.toml --checkpoint "$saved" \
  'data.val=["data/good.bin"]'
for fault in "${!words[@]}"; do
  file=damaged/$fault.h5
  code_of_weights=3
  words_of_weights=${words[$fault]}
  if [[ $fault == latest ]]; then  # not by its name a checkpoint: taken for safetensors
    file=damaged/latest
    code_of_weights=2
    words_of_weights="damaged/latest|safetensors"
  fi
  refuse "evaluation of a damaged checkpoint: $fault" $code_of_weights "$words_of_weights" \
    eval deck.toml --checkpoint "$file" 'data.val=["data/good.bin"]'
  touched=runs refuse "initial weights from a damaged checkpoint: $fault" $code_of_weights \
    "$words_of_weights" train deck.toml model.init_from="$file"
  rm -rf runs
  ((ranks == 1)) || continue
  refuse "export of a damaged checkpoint: $fault" 3 "${words[$fault]}" export "$file" --out exported
  [[ $fault == weights || $fault == missing ]] ||  # these show when weights are read
    refuse "info on a damaged checkpoint: $fault" 3 "${words[$fault]}" info "$file"
done

if ((ranks == 1)); then
  for i in {1..400}; do printf 'the quick brown fox %d jumps over the lazy dog\n' "$i"; done >text.txt
  accept "a tokenizer" tokenize --train-model tok.model --vocab-size 310 text.txt
  for fault in "${!words[@]}"; do
    file=damaged/$fault.h5
    [[ $fault == latest ]] && file=damaged/latest
    refuse "sample from a damaged checkpoint: $fault" 3 "${words[$fault]}" \
      sample --checkpoint "$file" --tokenizer tok.model --tokens 2
  done
fi

# ---- disks that refuse ----
if ((ranks == 1)); then
  refuse "export to a folder that cannot be made" 3 "/proc/sdp" export "$saved" --out /proc/sdp
  refuse "import to a folder that cannot be written" 3 "/proc/new.h5" import hf/good \
    --out /proc/new.h5
  if ! unshare -m true 2>/dev/null && ! unshare -rm true 2>/dev/null; then
    skip "a full and a read-only disk" "private mounts are not permitted"
  else
    mkdir mounted
    namespace=(unshare -m)
    ((EUID != 0)) && namespace=(unshare -rm)
    launch_outside=("${launch[@]}")
    # on_disk MOUNT_OPTIONS NAME CODE WORDS ARGUMENTS...: with such a disk at mounted/; nothing may
    # stay on it.
    on_disk() {
      local options=$1
      shift
      launch=("${namespace[@]}" bash -c "mount -t tmpfs -o $options none mounted &&"' "$@"
        code=$?; find mounted -mindepth 1; exit $code' bash "${launch_outside[@]}")
      refuse "$@"
      if [[ -s $scratch/out ]]; then
        report "files stay on the disk: $(tr '\n' ' ' <"$scratch/out")"
      fi
      launch=("${launch_outside[@]}")
    }
    on_disk size=16k "export to a full disk" 3 "mounted/x|No space left" export "$saved" \
      --out mounted/x
    on_disk size=8k "import to a full disk" 3 "mounted/new.h5|No space left" import hf/good \
      --out mounted/new.h5
    on_disk ro "export to a read-only disk" 3 "mounted/x|Read-only file system" export "$saved" \
      --out mounted/x
    on_disk ro "import to a read-only disk" 3 "mounted/new.h5|Read-only file system" import \
      hf/good --out mounted/new.h5
  fi
fi
