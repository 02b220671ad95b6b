// Compressors: gated pooling of `ratio` tokens into one entry (architecture report A.5, official Compressor).
//
//   K_t = wkv x_t,  G_t = wgate x_t + ape[t mod ratio]                          float32, [width]
//   HCA:  E = sum over the block's tokens of softmax(G) K                        width = D
//   CSA:  8 slots: the previous block's four tokens with the low halves of K and G, the block's own with the
//         high halves; block 0 has only its own                                  width = 2 D
//   e = rope(RMSNorm(R(E)), position ratio * b), then stored in the cache's format
//
// Entry b is finished by token ratio * (b + 1) - 1. Tokens of earlier calls are read from the state's tails,
// so any chunking gives the same entries.
#pragma once

#include "model/step.h"
#include "model/weights.h"

namespace hadal::model {

// values, gates: [t, width] of this step's rows, gates without ape (added here). Appends the entries that the
// rows finish and takes the rows into the tails. is_index: the indexer's compressor (Hadamard, FP4).
void compress(Step& step, const Compressor& compressor, int layer, bool is_index, const float* values, float* gates);

// Index vectors: Hadamard rotation and FP4 of n dims, as doubled codes and exponents (kernels/isa.h).
void pack_index_row(Step& step, float* x, std::byte* row);

}  // namespace hadal::model
