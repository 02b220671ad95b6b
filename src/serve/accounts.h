// Who may ask, how much, and what it costs: keys, limits, prices, balances and the ledger in one place. Each part may
// be absent: without keys everybody is let in, without prices nothing costs, without a ledger nothing is kept.
//
// Threads: finished(), seen() and the end of a Hold by any; everything else by the server's.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <variant>
#include <vector>

#include "serve/http.h"
#include "serve/keys.h"
#include "serve/ledger.h"
#include "serve/minute.h"
#include "serve/prices.h"
#include "serve/turn.h"

namespace hadal::serve {

struct AccountOptions {
  std::string keys, prices, ledger;  // files; empty: none
  std::string model;                 // what is served: its price holds, whatever name clients ask for
  std::string price_as;              // the model of the table whose price holds instead; empty: that one
};

class Accounts {
 public:
  static Result<std::unique_ptr<Accounts>> open(const AccountOptions& options);

  bool has_keys() const { return !options_.keys.empty(); }
  bool has_prices() const { return prices_.has_value(); }
  bool is_granted() const;  // some key has a balance
  size_t n_keys() const { return keys_.size(); }

  // Reads the keys again when their file changed. A file that is broken, or cannot be read, changes nothing and is one
  // line on stderr; the latter is tried again each time.
  void reload();

  // The name of the key that a request brings; empty without keys. 401: none of those it brings is one.
  std::variant<std::string, ApiError> name_of(const HttpRequest& request) const;
  // 402: nothing is left. 429: too much within a minute.
  std::optional<ApiError> refusal(const std::string& name, double now);

  // Money of a grant that is set aside for an answer until finished() has it, or until this is gone. Not copied;
  // outlived by its Accounts.
  class Hold {
   public:
    Hold(Accounts& accounts, std::string name, PicoUsd amount)
        : accounts_(accounts), name_(std::move(name)), amount_(amount) {}
    Hold(const Hold&) = delete;
    ~Hold();

   private:
    friend class Accounts;
    Accounts& accounts_;
    const std::string name_;
    PicoUsd amount_;  // with the mutex of accounts_
  };
  struct Admission {
    int64_t max_tokens = 0;      // of the answer: no more than was asked for, nor than the grant pays
    std::shared_ptr<Hold> hold;  // of the most that it may cost; none where nothing limits that
  };
  // Of a request that came at time_ms. 402: what is left does not pay for the prompt and kLeastAnswer tokens, or all
  // that were asked for where that is fewer.
  static constexpr int64_t kLeastAnswer = 1024;
  std::variant<Admission, ApiError> admit(const std::string& name, int64_t prompt_tokens, int64_t max_tokens,
                                          int64_t time_ms);
  int64_t concurrent(const std::string& name) const;  // answers at once; 0: no limit of its own
  // Counts a request that was let in. now: as in refusal().
  void started(const std::string& name, int64_t prompt_tokens, double now);
  // Counts, prices and notes it, and ends its hold; what is not owed costs nothing. nullopt: it has no price.
  std::optional<PicoUsd> finished(LedgerRow row, double now, bool is_owed = true, Hold* hold = nullptr);

  json::Value balance(const std::string& name) const;

  struct Seen {
    Cost cost;  // since the start
    Ledger::Seen ledger;
  };
  Seen seen() const;

 private:
  explicit Accounts(AccountOptions options) : options_(std::move(options)) {}
  const Key* key(const std::string& name) const;
  PicoUsd spent(const std::string& name) const;
  const std::string& priced_as() const { return options_.price_as.empty() ? options_.model : options_.price_as; }
  std::optional<Price> price_at(int64_t time_ms) const;

  struct Account {
    LastMinute requests, tokens;
    PicoUsd spent = 0;  // ever
    PicoUsd held = 0;   // by answers that have not ended
  };

  const AccountOptions options_;
  std::vector<Key> keys_;
  std::string keys_stamp_;    // of the file as it was read last
  std::string keys_failure_;  // of the last reading, and was said; empty: there was none
  std::optional<PriceTable> prices_;

  mutable std::mutex mutex_;  // of what follows
  std::unordered_map<std::string, Account> accounts_;
  Cost cost_;
  std::unique_ptr<Ledger> ledger_;  // has its own
};

}  // namespace hadal::serve
