// Where training tokens come from: rows of documents, one after another.
//
// A row is a pure function of its arguments, so a resumed or distributed run sees the same data without any reader's
// state: any step's rows can be made by anyone, in any order. Const methods: any thread.
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

struct Row {
  std::vector<TokenId> ids;        // `length` of them
  std::vector<int32_t> documents;  // index in the row of the first token of the document that holds it
  std::vector<float> weights;      // [i]: weight of the loss of predicting ids[i + 1]; 0 at a document's last token
  std::vector<Answer> answers;     // of tasks that can be scored token by token
};

class Source {
 public:
  virtual ~Source() = default;
  virtual Row row(uint64_t seed, uint64_t step, uint64_t row, int length) const = 0;  // length > 1
  virtual int vocabulary() const = 0;                                                 // ids are below
};

// A source from its description in a run file: {"kind": "recall", ...} (data/recall.h) or {"kind": "mixture", "name",
// "tokenizer", "corpus"} (data/mixture.h). `where` begins messages ("data.recall").
Result<std::unique_ptr<Source>> open_source(const json::Value& description, const std::string& where);

}  // namespace hadal::data
