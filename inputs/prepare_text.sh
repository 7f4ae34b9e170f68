#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# English prose from documentation that Debian and Ubuntu ship, one text file a document.
#
#   bash inputs/prepare_text.sh FOLDER
#
# Downloads the packages perl-doc and python3-doc (nothing is installed, so neither root nor a
# system that keeps documentation is needed), unpacks them under FOLDER and writes the prose of their
# sources to FOLDER/text. What is there already is kept. About 12 MB of text.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [[ $# != 1 ]]; then
  echo "usage: bash inputs/prepare_text.sh FOLDER" >&2
  exit 2
fi
mkdir -p "$1"
folder=$(cd "$1" && pwd)
if [[ -f $folder/text.done ]]; then
  echo "$(cat "$folder/text.done") (kept from before)"
  exit 0
fi

sources() {  # Perl's pod files and Python's rst files under a root
  find "$1"/usr/share/perl -name '*.pod' ! -name perltoc.pod ! -name perluniprops.pod 2>/dev/null
  find "$1"/usr/share/doc -path '*python3*/html/_sources/*' -name '*.rst.txt' 2>/dev/null
}

# python3-doc only names the package of the release's Python.
packages=(perl-doc)
python=$(apt-cache depends python3-doc 2>/dev/null | sed -n 's/^ *Depends: \(python3\.[0-9]*-doc\)$/\1/p')
if [[ -z $python ]]; then
  # The lists of a fresh machine are empty.
  if [[ $(id -u) == 0 ]]; then
    apt-get update -qq >/dev/null 2>&1 || true
  elif command -v sudo >/dev/null; then
    sudo apt-get update -qq >/dev/null 2>&1 || true
  fi
  python=$(apt-cache depends python3-doc 2>/dev/null |
           sed -n 's/^ *Depends: \(python3\.[0-9]*-doc\)$/\1/p')
fi
packages+=(${python:+"$python"})

root=$folder/packages
rm -rf "$root" "$folder/text"
mkdir -p "$root" "$folder/text"
echo "Downloading ${packages[*]} (for their text, not installed)"
# Without the sandbox user apt would warn that it cannot write to a private folder.
if (cd "$root" && apt-get download -qq -o APT::Sandbox::User=root "${packages[@]}" >apt.log 2>&1); then
  for archive in "$root"/*.deb; do
    dpkg-deb -x "$archive" "$root"
  done
else
  tail -n 3 "$root/apt.log" >&2
  echo "Download failed; using the documentation that is installed" >&2
  root=
fi

sources "$root" | LC_ALL=C sort | while IFS= read -r file; do
  case $file in
    *.pod) printf 'pod\t%s\t%s/text/perl-%s.txt\n' "$file" "$folder" "$(basename "$file" .pod)" ;;
    *) name=${file#*/_sources/}
       printf 'rst\t%s\t%s/text/python-%s.txt\n' "$file" "$folder" "$(tr / - <<<"${name%.rst.txt}")" ;;
  esac
done >"$folder/sources.tsv"
read -r documents bytes < <(perl "$here/plain_text.pl" <"$folder/sources.tsv")
if ((bytes < 10000000)); then
  echo "Only $bytes bytes of text from ${packages[*]}; at least 10,000,000 are wanted." >&2
  echo "Give a text of your own: bash inputs/quickstart.sh --text FILE_OR_FOLDER" >&2
  exit 1
fi
rm -rf "$folder/packages"
printf "%s documents, %s.%s MB of English prose\n" "$documents" $((bytes / 1000000)) \
  $((bytes / 100000 % 10)) >"$folder/text.done"
cat "$folder/text.done"
