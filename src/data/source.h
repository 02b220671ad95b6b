// Where training tokens come from. A source makes documents; pack() lays them one after another
// into rows.
//
// Everything is a pure function of its arguments, so a resumed or distributed run sees the same
// data without any reader's state: any step's rows can be made by anyone, in any order. Const
// methods: any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "base/types.h"

namespace hadal::data {

// A position whose prediction is judged, and how far back the tokens lie that decide it.
struct Answer {
  int position = 0;
  int distance = 0;
};

struct Document {
  std::vector<TokenId> ids;
  std::vector<float> weights;   // [i]: weight of the loss of predicting ids[i + 1]; the last is 0
  std::vector<Answer> answers;  // of tasks that can be scored token by token
};

struct DocumentKey {
  uint64_t seed = 0, step = 0, row = 0;
  uint64_t index = 0;  // of the document in its row
};

class Source {
 public:
  virtual ~Source() = default;
  // `room`: tokens left in the row. A document may be longer (it is cut there) but not empty.
  virtual Document document(const DocumentKey& key, int room) const = 0;
  virtual int vocabulary() const = 0;  // ids are below
};

struct Row {
  std::vector<TokenId> ids;     // [length]
  std::vector<int> documents;   // [length]: index of the document's first token
  std::vector<float> weights;   // [length]
  std::vector<Answer> answers;  // positions in the row
};
Row pack(const Source& source, uint64_t seed, uint64_t step, uint64_t row, int length);

// A source from its description in a run file: {"kind": "recall", ...}. `where` begins messages
// ("data.recall").
Result<std::unique_ptr<Source>> open_source(const json::Value& description,
                                            const std::string& where);

}  // namespace hadal::data
