// Completions side by side. Every step() is one forward pass: the latest token of each running
// completion, and pieces of the prompts that are not read yet, in equal shares, up to rows_per_step
// tokens in all (more when more than that many run).
//
//   const int id = batch.add({.prompt = ids, ...});
//   while (!batch.empty()) { batch.step(events); ... events of each id ...; batch.take(id) after
//   its kDone }
//
// A completion's tokens depend on its request only, never on its neighbours (docs/numerics.md).
// What to admit, when to preempt and how much memory states may take is the caller's policy.
//
// Threads: one, the Engine's.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "engine/decoder.h"
#include "sample/constraint.h"
#include "sample/sampler.h"

namespace hadal::engine {

enum class Finish { kStop, kLength, kCancelled };  // end token or the caller said so; limit; stop()

struct Completion {
  Finish finish = Finish::kStop;
  std::vector<TokenId> tokens;
  int64_t prompt_tokens = 0, reused_tokens = 0;
  double prefill_s = 0, decode_s = 0;  // of the steps that it took part in
};

using kv::Context;

struct Request {
  std::vector<TokenId> prompt;
  std::optional<Context> start;  // its ids: a true prefix of the prompt; what it covers is not computed again
  sample::Options sampling;
  std::shared_ptr<sample::Constraint> constraint =
      nullptr;              // its own; it sees the completion's tokens as they are drawn
  int64_t max_tokens = -1;  // -1: up to the model's context
  // Positions in the prompt, ascending, where reading pauses for one step's end: context() is then the state there.
  std::vector<int64_t> pauses = {};
};

struct Event {
  enum class Kind {
    kRead,   // prompt tokens were read: prompt_done of them so far, reused ones included
    kToken,  // one token of the completion, never an end token
    kDone,   // nothing more will come: finish says why, or error
  };
  int id = 0;
  Kind kind = Kind::kDone;
  int64_t prompt_done = 0;
  sample::Choice choice;
  Finish finish = Finish::kStop;
  Status error;
};

struct Finished {
  Completion completion;
  Context context;  // after the last token that was fed
};

class Batch {
 public:
  explicit Batch(Decoder& decoder, int64_t rows_per_step = 512) : decoder_(decoder), rows_per_step_(rows_per_step) {}

  // kInvalid: an empty prompt, an unknown id, sampling out of range, a prompt that leaves no room
  // for an answer, a start that is no true prefix. Ids count from 0 and are not used again.
  Result<int> add(Request request);
  // Ends with Finish::kStop (the caller has seen enough) or kCancelled; its kDone comes with the
  // next step().
  void stop(int id, Finish finish);
  // Gives the state's memory back; the completion stands still until resume(), which reads its tokens again (those that
  // `start` covers excepted). The tokens that follow are the same.
  void suspend(int id);
  void resume(int id, std::optional<Context> start = {});
  int64_t state_bytes(int id) const;  // of its state; pages that several share count for each
  // The state and the ids that it has seen, until take(); to be forked, not changed.
  const Context& context(int id) const;
  // Prompt and completion so far, the latest token included.
  const std::vector<TokenId>& ids(int id) const { return running_.at(id).ids; }
  // One forward pass, or none when all that is left has ended. An error is the whole step's: no
  // completion has moved.
  Status step(std::vector<Event>& events);
  bool empty() const { return running_.empty(); }
  size_t size() const { return running_.size(); }  // completions without a kDone yet
  Finished take(int id);                           // after its kDone, once

 private:
  struct Running {
    Request request;
    std::vector<TokenId> ids;  // prompt and completion; the state has seen a prefix
    Context context;           // its ids are those the state has seen
    sample::Sampler sampler;
    Completion completion;
    int64_t max_tokens = 0;
    int64_t read_to = 0;  // of the prompt, told
    bool suspended = false;
    std::optional<Finish> ended;
    Status error;
  };
  void after_forward(int id, Running& running, int64_t n_read, std::span<const float> logits,
                     std::vector<Event>& events);

  Decoder& decoder_;
  int64_t rows_per_step_;
  int next_id_ = 0;
  std::map<int, Running> running_;  // by id: the order of arrival
  std::map<int, Finished> finished_;
  std::vector<float> logits_;
  std::vector<uint64_t> allowed_;
};

}  // namespace hadal::engine
