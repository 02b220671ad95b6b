#!/usr/bin/env bash
# Fails when a file under src/ includes a module that src/layers.txt does not allow it to see.
set -euo pipefail
cd "$(dirname "$0")/.."
awk '
  FNR == NR {
    if ($0 ~ /^#/ || !NF) next
    split($0, half, ":"); module = half[1]; gsub(/ /, "", module); known[module] = 1
    count = split(half[2], seen, " ")
    for (i = 1; i <= count; i++) {
      allowed[module, seen[i]] = 1
      if (!(seen[i] in known)) { print "src/layers.txt: " module " lists " seen[i] ", which is not above it"; bad = 1 }
    }
    next
  }
  /^[ \t]*#[ \t]*include[ \t]*"/ {
    split(FILENAME, path, "/"); from = path[2]
    split($0, quoted, "\""); split(quoted[2], target, "/"); to = target[1]
    if (!(to in known)) { print FILENAME ":" FNR ": no such module: " quoted[2]; bad = 1 }
    else if (from != to && !((from, to) in allowed)) { print FILENAME ":" FNR ": " from " must not include " to; bad = 1 }
  }
  END { exit bad }' src/layers.txt $(find src -name '*.h' -o -name '*.cpp' | sort)
