#!/usr/bin/env bash
# Every golden checkpoint in every mode: numerics x chunk x threads x batch x instruction set. The bits of the
# logits must be the same in all modes of one checkpoint. Takes the goldens beside the repository; the plain loops take
# hours, ISAS=avx2 leaves them out.
set -uo pipefail
cd "$(dirname "$0")/.."
golden=${GOLDEN:-../shared/golden}
[ -d "$golden/expected" ] || { echo "verify-all: $golden/expected is not there"; exit 1; }
isas=${ISAS:-avx512 avx2 reference}
runs=0 failed=0
for expected in "$golden"/expected/*.safetensors; do
  name=$(basename "$expected" .safetensors)
  declare -A bits=()
  for isa in $isas; do
    for chunk in 1 7 64 1000; do
      for threads in 1 2 5; do
        for batch in 1 3; do
          # The plain loops take minutes on the longest prompt: one mode of it is enough of the oracle.
          [ "$name$isa" = longreference ] && [ "$chunk$threads$batch" != 6421 ] && continue
          out=$(build/release/hadal verify -m "$golden/model/$name" --golden "$expected" --chunk $chunk \
                --threads $threads --batch $batch --isa $isa 2>&1)
          runs=$((runs + 1))
          if ! grep -q '^verify: OK' <<<"$out"; then
            grep -q 'not an instruction set of this machine' <<<"$out" && continue
            failed=$((failed + 1)); echo "FAIL $name $isa chunk $chunk threads $threads batch $batch"; grep -E 'FAIL' <<<"$out"
          fi
          for numerics in exact faithful; do
            now=$(awk -v n="$numerics.logits" '$1 == n && $2 == "bits" {print $3}' <<<"$out")
            [ -z "$now" ] && continue
            if [ -z "${bits[$numerics]:-}" ]; then bits[$numerics]=$now
            elif [ "${bits[$numerics]}" != "$now" ]; then
              failed=$((failed + 1)); echo "BITS DIFFER $name $numerics $isa chunk $chunk threads $threads batch $batch"
            fi
          done
        done
      done
    done
  done
  echo "$name: bits exact ${bits[exact]:-none} faithful ${bits[faithful]:-none}"
done
echo "verify-all: $runs runs, $failed failed"
[ "$failed" = 0 ]
