// The token ids of answers as they were sampled. A client sends back text, and what it sends may be tokenized otherwise
// than it was sampled, its calls written otherwise, its reasoning left out; with the ids the next prompt begins as this
// one ended, and the states that were kept fit.
//
// An answer is found by the id of one of its calls, or by the prompt that it followed and its visible text; and it is
// used only where what the client sends still says the same (normalise.cpp).
//
// The latest are kept, up to a number of bytes. Threads: any.
#pragma once

#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/sha256.h"
#include "base/types.h"

namespace hadal::serve {

struct SaidCall {
  std::string id, name, arguments;
};

// An assistant's message, as it was sampled or as a client sends it.
struct Said {
  std::string reasoning, content;
  std::vector<SaidCall> calls;
  TokenId think = 0;         // the token before it: the reasoning's begin, or its end
  std::vector<TokenId> ids;  // without the end token
};

class ReplayMemory {
 public:
  explicit ReplayMemory(size_t most_bytes = size_t{64} << 20) : most_bytes_(most_bytes) {}

  // prompt: a digest of the ids that it followed.
  void remember(const std::string& space, const Digest& prompt, Said said);
  std::shared_ptr<const Said> of_call(const std::string& space, std::string_view call_id) const;
  std::shared_ptr<const Said> after(const std::string& space, const Digest& prompt, std::string_view content) const;

 private:
  struct Kept {
    std::shared_ptr<const Said> said;
    std::vector<Digest> keys;
    size_t bytes = 0;
  };
  std::shared_ptr<const Said> find(const Digest& key) const;

  const size_t most_bytes_;
  mutable std::mutex mutex_;
  std::unordered_map<Digest, std::shared_ptr<const Said>, DigestHash> by_key_;
  std::deque<Kept> kept_;  // latest last
  size_t bytes_ = 0;
};

// Whether what the client sends says what was sampled: the same text up to outer blanks, the same calls up to the form
// of their JSON, and the same reasoning or none.
bool agrees(const Said& sampled, const Said& sent);

}  // namespace hadal::serve
