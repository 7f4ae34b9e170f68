# SPDX-License-Identifier: Apache-2.0
# How the command test runs the program and looks at what it leaves. `start`, `report`, `listing` and
# `crash_words` come from the bad-input test.

# on RANKS: how the next commands are started; 1 is a process without a launcher.
on() {
  local word
  launch=()
  (($1 == 1)) && return
  for word in "${launcher[@]}"; do
    [[ $word == RANKS ]] && word=$1
    launch+=("$word")
  done
}

# run NAME CODE ARGUMENTS...: runs the program, which must end with CODE.
run() {
  name=$1
  local expected=$2
  shift 2
  start "$@"
  judge "$expected"
}

# judge CODE: whether the program ended so, and without the noise of a crash.
judge() {
  if ((code == 124 || code == 137)); then
    report "no end within $limit s"
  elif ((code != $1)); then
    report "exit code $code, expected $1"
  elif grep -qiE "$crash_words" "$scratch/err" "$scratch/out"; then
    report "output of a crash"
  else
    passed=$((passed + 1))
  fi
}

# check WHAT COMMAND...: COMMAND must succeed, said to be WHAT where it does not.
check() {
  local what=$1
  shift
  if "$@"; then
    passed=$((passed + 1))
  else
    report "not so: $what [$*]"
  fi
}

# says PATTERN: standard output has it.
says() { grep -qE -- "$1" "$scratch/out"; }
complains() { grep -qE -- "$1" "$scratch/err"; }
absent() { [[ ! -e $1 ]]; }
unchanged() { [[ $1 == "$(listing)" ]]; }
# same A B: the same text, of which there is some.
same() { [[ -n $1 && $1 != null && $1 == "$2" ]]; }
differ() { ! cmp -s "$1" "$2"; }

# one_object FILE: the file is one JSON object, from its first character to the end of its last line.
one_object() {
  awk '
    { text = text $0 "\n" }
    END {
      for (i = 1; i < length(text); i++) {
        c = substr(text, i, 1)
        if (quoted) {
          if (c == "\\") i++
          else if (c == "\"") quoted = 0
        } else if (closed) exit 1
        else if (c == "\"") quoted = 1
        else if (c == "{" || c == "[") depth++
        else if (c == "}" || c == "]") closed = --depth == 0
        if (depth == 0 && !closed) exit 1
      }
      exit !(closed && substr(text, 1, 1) == "{")
    }' "$1"
}

# value KEY FILE: what the last "KEY": of the file is followed by, a number, a word or a text.
value() {
  grep -oE "\"$1\": ?(\"[^\"]*\"|[^][,{}\"]+)" "$2" | tail -n 1 | sed -E 's/^"[^"]*": ?//; s/"//g'
}

# records EVENT KEY FILE: KEY of every such record of a metrics file, one a line.
records() {
  grep -F "{\"event\":\"$1\"," "$3" | sed -nE "s/.*\"$2\":(\"([^\"]*)\"|([^,}]+)).*/\2\3/p"
}

# near A B SHARE: two positive numbers that differ by at most this share.
near() {
  awk -v a="$1" -v b="$2" -v share="$3" \
    'BEGIN { d = a > b ? a - b : b - a; exit !(a > 0 && b > 0 && d <= share * b) }'
}
below() { awk -v a="$1" -v b="$2" 'BEGIN { exit !(a != "" && b != "" && a + 0 < b + 0) }'; }

# wait_until COMMAND...: polls until it succeeds, at most $limit seconds.
wait_until() {
  local end=$((SECONDS + limit))
  until "$@"; do
    ((SECONDS < end)) || return 1
    sleep 0.05
  done
}

ended() { ! kill -0 "$1" 2>/dev/null; }

# begin ARGUMENTS...: starts the program in the background as process $launched.
begin() {
  "${launch[@]}" "$sdp" "$@" >"$scratch/out" 2>"$scratch/err" </dev/null &
  launched=$!
}

# finish: waits for it, at most $limit seconds; leaves `code`.
finish() {
  wait_until ended "$launched" || kill -KILL "$launched"
  wait "$launched" 2>/dev/null
  code=$?
}

# processes_in FOLDER: those that work in it or below.
processes_in() {
  local process
  for process in /proc/[0-9]*; do
    [[ $(readlink "$process/cwd" 2>/dev/null) == "$1"* ]] && echo "${process#/proc/}"
  done
}

# ranks_here: the processes of the program in this test, on one line.
ranks_here() {
  local process
  for process in $(processes_in "$work"); do
    [[ $(readlink "/proc/$process/exe" 2>/dev/null) == "$sdp" ]] && printf '%s ' "$process"
  done
}

no_ranks_here() { [[ -z $(ranks_here) ]]; }

# stop_everything: ends every process that still works in the scratch folder.
stop_everything() {
  local process
  cd / || return
  for process in $(processes_in "$scratch"); do
    kill -KILL "$process" 2>/dev/null
  done
}

# ---- token shards ----

# int32 FILE INDEX: a number of the header.
int32() { od -An -t d4 -j $((4 * $2)) -N 4 "$1" | tr -d ' '; }

# good_shard FILE: a GPT-2 shard of which the header fits the size.
good_shard() {
  [[ $(int32 "$1" 0) == 20240520 && $(int32 "$1" 1) == 1 ]] &&
    (($(int32 "$1" 2) > 0 && 1024 + 2 * $(int32 "$1" 2) == $(stat -c %s "$1")))
}

# documents FILE: how often the first token, BOS, stands in the shard.
documents() {
  od -An -v -t u2 -w2 -j 1024 "$1" | awk 'NR == 1 { bos = $1 } $1 == bos { n++ } END { print n }'
}

# ---- inputs ----

# english LINES: lines of words, the same ones every time.
english() {
  local -a words=(the a red old small river stone house bird wind night winter garden letter road
    child teacher ship captain window morning market bread light field horse song under over with)
  local state=1 line word i
  for ((i = 0; i < $1; i++)); do
    line=
    for ((word = 0; word < 12; word++)); do
      state=$(((state * 1103515245 + 12345) & 0x7fffffff))
      line+=" ${words[(state >> 12) % ${#words[@]}]}"
    done
    line=${line# }
    printf '%s.\n' "${line^}"
  done
}

write_deck() {
  cat >deck.toml <<'TOML'
[run]
out_dir = "runs/tiny"
precision = "fp32"
[model]
kind = "llama"
vocab_size = 300
hidden_size = 32
intermediate_size = 64
num_layers = 2
num_heads = 4
num_kv_heads = 2
[data]
kind = "tokens"
train = ["data/text_train_*.bin"]
val = ["data/text_val_*.bin"]
tokenizer = "words.model"
[train]
steps = 40
global_batch = 8
seq_len = 32
eval_every = 20
log_every = 5
[optimizer]
lr = 3e-3
[checkpoint]
every_steps = 10
TOML
}
