// The token ids of answers as they were sampled. A client sends back text, and what it sends may be tokenized otherwise
// than it was sampled, its calls written otherwise, its reasoning left out; with the ids the next prompt begins as this
// one ended, and the states that were kept fit.
//
// An answer is found by the id of one of its calls, or by the prompt that it followed and its visible text; and it is
// used only where what the client sends still says the same (normalise.cpp).
//
// Those used last are kept, up to a number of bytes; with the context cache on disk also there, so that a conversation
// goes on after a restart, or at another server on the same directory. Threads: any.
#pragma once

#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/sha256.h"
#include "base/types.h"
#include "cache/store.h"

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
  // store: may be null; must outlive it. Answers on its disk with other ids than 0 .. vocab_size - 1 are passed over.
  explicit ReplayMemory(cache::Store* store = nullptr, int vocab_size = 0, int64_t most_bytes = int64_t{64} << 20);
  ~ReplayMemory();

  // prompt: a digest of the ids that it followed.
  void remember(const std::string& space, const Digest& prompt, Said said);
  std::shared_ptr<const Said> of_call(const std::string& space, std::string_view call_id);
  std::shared_ptr<const Said> after(const std::string& space, const Digest& prompt, std::string_view content);

 private:
  struct Kept {
    std::shared_ptr<const Said> said;
    std::vector<Digest> keys;
    int64_t bytes = 0;
    double told = 0;  // when the store last heard of it, seconds
  };
  using List = std::list<Kept>;
  void keep(std::shared_ptr<const Said> said, std::vector<Digest> keys);
  std::shared_ptr<const Said> find(const Digest& key);

  cache::Store* const store_;
  const int64_t most_bytes_;
  std::mutex mutex_;
  List kept_;  // used last: at the end
  std::unordered_map<Digest, List::iterator, DigestHash> by_key_;
  int64_t bytes_ = 0;
};

// Whether what the client sends says what was sampled: the same text up to outer blanks, the same calls up to the form
// of their JSON, and the same reasoning or none.
bool agrees(const Said& sampled, const Said& sent);

}  // namespace hadal::serve
