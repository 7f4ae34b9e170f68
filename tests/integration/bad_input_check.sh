# SPDX-License-Identifier: Apache-2.0
# How one case of the bad-input test is run and judged.

# listing [EXCLUDED]: every path of the working folder with type, mode, size, time and checksum.
listing() {
  find . -mindepth 1 -path "./${1:-.none}" -prune -o -printf '%P %y %m %s %T@\n' | sort
  find . -path "./${1:-.none}" -prune -o -type f -readable -print0 | sort -z | xargs -0r cksum
}

crash_words='MPI_ABORT|terminate called|what\(\)|backtrace|stack trace|Segmentation|core dumped'

# result_files FOLDER: what a reader would take for the result of a run.
result_files() {
  find "$1" \( -name summary.json -o -name latest -o -name '*.h5' \) 2>/dev/null
  return 0
}

report() {
  failed=$((failed + 1))
  printf 'FAILED %s: %s\n' "$name" "$1"
  sed 's/^/    stderr: /' "$scratch/err" | head -n 20
}

skip() {
  unchecked=$((unchecked + 1))
  printf 'not checked: %s (%s)\n' "$1" "$2"
}

# selected NAME
selected() { [[ $1 == *"${BAD_INPUT_ONLY:-}"* ]]; }

# start ARGUMENTS...: runs the program; leaves out, err and `code`.
start() {
  timeout -k 5 "${limit:-20}" "${launch[@]}" "$sdp" "$@" >"$scratch/out" 2>"$scratch/err" </dev/null
  code=$?
  if grep -q '^prterun detected' "$scratch/err"; then
    sed -i '/^-\{20,\}$/,/^-\{20,\}$/d' "$scratch/err"
  fi
}

# accept NAME ARGUMENTS...: the same input without the fault, so that a refusal is for the fault.
accept() {
  local name=$1
  shift
  limit=60 start "$@"
  if ((code != 0)); then
    report "exit code $code, expected 0"
  else
    passed=$((passed + 1))
  fi
}

# refuse NAME CODE WORDS ARGUMENTS...: WORDS are separated by | and must all stand in the sentence.
#
# With code 2 nothing may change and standard error is the sentence alone. With code 3 the run may
# have begun: the folder $touched may change, but must not hold what looks like a result, and the
# sentence stands once among the lines of progress.
refuse() {
  local name=$1 expected=$2 words=$3 before after results sentence word
  shift 3
  selected "$name" || return 0
  before=$(listing "${touched:-}")
  start "$@"
  after=$(listing "${touched:-}")
  if ((code == 124 || code == 137)); then
    report "no end within ${limit:-20} s"
  elif ((code != expected)); then
    report "exit code $code, expected $expected"
  elif grep -qiE "$crash_words" "$scratch/err" "$scratch/out"; then
    report "output of a crash"
  elif [[ $before != "$after" ]]; then
    report "files were touched: $(diff <(echo "$before") <(echo "$after") | head -n 6 | tr '\n' ';')"
  elif [[ -n ${touched:-} ]] && results=$(result_files "$touched") && [[ -n $results ]]; then
    report "what looks like a result stays: ${results//$'\n'/ }"
  elif ((expected == 2)) && (($(wc -l <"$scratch/err") != 1)); then
    report "standard error has $(wc -l <"$scratch/err") lines, expected one sentence"
  elif ((expected == 2)) && [[ -s $scratch/out ]]; then
    report "standard output is not empty: $(head -n 1 "$scratch/out")"
  else
    sentence=$(grep -F -- "${words%%|*}" "$scratch/err")
    if [[ -z $sentence ]]; then
      report "the sentence does not have \"${words%%|*}\""
      return
    elif (($(wc -l <<<"$sentence") != 1)); then
      report "the sentence stands there more than once"
      return
    elif ((${#sentence} > 600)); then
      report "the sentence has ${#sentence} characters"
      return
    fi
    IFS='|' read -ra words <<<"$words"
    for word in "${words[@]}"; do
      if [[ $sentence != *"$word"* ]]; then
        report "the sentence does not have \"$word\""
        return
      fi
    done
    passed=$((passed + 1))
  fi
}

# refuse_deck NAME WORDS OVERRIDES...: `sdp train deck.toml OVERRIDES` is refused with code 2.
refuse_deck() {
  local name=$1 words=$2
  shift 2
  refuse "$name" 2 "$words" train deck.toml "$@"
}
