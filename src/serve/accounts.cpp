#include "serve/accounts.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <utility>

namespace hadal::serve {
namespace {

// Changes whenever the file does; empty: there is none.
std::string stamp_of(const std::string& path) {
  struct stat s {};
  if (::stat(path.c_str(), &s) != 0) return "";
  return fmt::format("{} {} {} {}.{:09}", s.st_dev, s.st_ino, s.st_size, s.st_mtim.tv_sec, s.st_mtim.tv_nsec);
}

// Of "Bearer sk-...", whatever the case of the first word.
std::string bearer_of(const std::string& header) {
  constexpr std::string_view kScheme = "bearer ";
  if (header.size() < kScheme.size()) return "";
  for (size_t i = 0; i < kScheme.size(); ++i)
    if (std::tolower(static_cast<unsigned char>(header[i])) != kScheme[i]) return "";
  const size_t begin = header.find_first_not_of(' ', kScheme.size());
  return begin == std::string::npos ? "" : header.substr(begin);
}

// Enough to tell one's own keys apart. Of a short one even four characters would be too much.
std::string last_of(const std::string& secret) {
  std::string last = secret.size() >= 12 ? secret.substr(secret.size() - 4) : "";
  for (char& c : last)
    if (c < 0x21 || c > 0x7E) c = '?';
  return last;
}

ApiError unauthorised(std::string message) {
  return {.status = 401, .type = "authentication_error", .message = std::move(message)};
}
ApiError insufficient() { return {.status = 402, .type = "unknown_error", .message = "Insufficient Balance"}; }
ApiError too_much(int64_t limit, const char* of_what, int wait) {
  ApiError error{.status = 429,
                 .type = "rate_limit_error",
                 .code = "rate_limit_exceeded",
                 .message = fmt::format("Rate limit reached: {} {} per minute", limit, of_what)};
  error.retry_after = wait;
  return error;
}

}  // namespace

Result<std::unique_ptr<Accounts>> Accounts::open(const AccountOptions& options) {
  auto accounts = std::unique_ptr<Accounts>(new Accounts(options));
  if (!options.keys.empty()) {
    accounts->keys_stamp_ = stamp_of(options.keys);  // before it is read: a change in between is seen
    if (accounts->keys_stamp_.empty())
      return Error{Code::kNotFound, fmt::format("{}: no such file; hadal key add makes it", options.keys)};
    accounts->keys_ = HADAL_TRY(read_keys(options.keys));
  }
  if (!options.prices.empty()) {
    const auto& prices = accounts->prices_.emplace(HADAL_TRY(PriceTable::load(options.prices)));
    if (!options.price_as.empty() && !prices.has(options.price_as))
      return Error{Code::kInvalid, fmt::format("--price-as {}: expected one of those in {}: {}", options.price_as,
                                               options.prices, prices.names())};
    if (!accounts->price_at(std::time(nullptr) * int64_t{1000}))
      return Error{Code::kInvalid,
                   fmt::format("{}: expected a price of {} that holds now, or --price-as with one of: {}",
                               options.prices, accounts->priced_as(), prices.names())};
  }
  if (!options.ledger.empty()) {
    auto file = HADAL_TRY(LedgerFile::open(options.ledger));
    const auto sums = HADAL_TRY(file.sums(LedgerFile::By::kKey));
    for (const auto& sum : sums) accounts->accounts_[sum.name].spent = sum.cost;
    accounts->ledger_ = std::make_unique<Ledger>(std::move(file));
  }
  return accounts;
}

bool Accounts::is_granted() const {
  return std::any_of(keys_.begin(), keys_.end(), [](const Key& key) { return key.granted.has_value(); });
}

void Accounts::reload() {
  if (!has_keys()) return;
  std::string stamp = stamp_of(options_.keys);
  if (stamp == keys_stamp_) return;
  auto keys = read_keys(options_.keys);
  // What is broken stays so until it changes; what could not be read may be the next time: a key that was taken back
  // must not live on.
  if (keys.ok() || keys.error().code == Code::kInvalid) keys_stamp_ = std::move(stamp);
  if (keys.ok()) keys_ = std::move(keys).value();
  const std::string failure = keys.ok() ? "" : keys.error().message;
  if (!failure.empty() && failure != keys_failure_)
    fmt::print(stderr, "hadal: {}; the keys stay what they were\n", failure);
  keys_failure_ = failure;
}

std::variant<std::string, ApiError> Accounts::name_of(const HttpRequest& request) const {
  if (!has_keys()) return "";
  const std::string secrets[] = {bearer_of(request.header("authorization")), request.header("x-api-key")};
  for (const std::string& secret : secrets)
    if (const Key* found = secret.empty() ? nullptr : find_key(keys_, secret)) return found->name;
  for (const std::string& secret : secrets)
    if (!secret.empty())
      return unauthorised(fmt::format("Authentication Fails, Your api key: ****{} is invalid", last_of(secret)));
  return unauthorised("Authentication Fails (auth header format should be Bearer sk-...)");
}

const Key* Accounts::key(const std::string& name) const {
  const auto it = std::find_if(keys_.begin(), keys_.end(), [&](const Key& key) { return key.name == name; });
  return it == keys_.end() ? nullptr : &*it;
}

PicoUsd Accounts::spent(const std::string& name) const {
  const std::lock_guard lock(mutex_);
  const auto it = accounts_.find(name);
  return it == accounts_.end() ? 0 : it->second.spent;
}

std::optional<Price> Accounts::price_at(int64_t time_ms) const {
  return prices_ ? prices_->at(priced_as(), time_ms / 1000) : std::nullopt;
}

std::optional<ApiError> Accounts::refusal(const std::string& name, double now) {
  const Key* of = key(name);
  if (!of) return std::nullopt;
  if (of->granted && spent(name) >= *of->granted) return insufficient();
  const std::lock_guard lock(mutex_);
  Account& account = accounts_[name];
  if (const int64_t limit = of->requests_per_minute)
    if (const int wait = account.requests.wait(now, limit)) return too_much(limit, "requests", wait);
  if (const int64_t limit = of->tokens_per_minute)
    if (const int wait = account.tokens.wait(now, limit)) return too_much(limit, "tokens", wait);
  return std::nullopt;
}

int64_t Accounts::concurrent(const std::string& name) const {
  const Key* of = key(name);
  return of ? of->concurrent : 0;
}

// Whatever runs beside it and however it ends, a key never costs more than its grant: each answer's most is set aside
// before it begins.
std::variant<Accounts::Admission, ApiError> Accounts::admit(const std::string& name, int64_t prompt_tokens,
                                                            int64_t max_tokens, int64_t time_ms) {
  const Key* of = key(name);
  const auto price = price_at(time_ms);
  if (!of || !of->granted || !price) return Admission{max_tokens, nullptr};
  const PicoUsd prompt = std::max(price->miss, price->hit) * prompt_tokens;
  const std::lock_guard lock(mutex_);
  Account& account = accounts_[name];
  const PicoUsd left = *of->granted - account.spent - account.held;
  if (left < prompt + price->output * std::min(max_tokens, kLeastAnswer)) return insufficient();
  if (price->output > 0) max_tokens = std::min(max_tokens, (left - prompt) / price->output);
  const PicoUsd most = prompt + price->output * max_tokens;
  account.held += most;
  return Admission{max_tokens, std::make_shared<Hold>(*this, name, most)};
}

Accounts::Hold::~Hold() {
  const std::lock_guard lock(accounts_.mutex_);
  if (amount_ > 0) accounts_.accounts_[name_].held -= amount_;
}

void Accounts::started(const std::string& name, int64_t prompt_tokens, double now) {
  if (!has_keys()) return;
  const std::lock_guard lock(mutex_);
  Account& account = accounts_[name];
  account.requests.add(now, 1);
  account.tokens.add(now, prompt_tokens);
}

std::optional<PicoUsd> Accounts::finished(LedgerRow row, double now, bool is_owed, Hold* hold) {
  const auto price = price_at(row.time_ms);
  const Cost cost = price && is_owed ? price->of(row.prompt_tokens, row.hit_tokens, row.output_tokens) : Cost{};
  row.cost = cost.total();
  {
    const std::lock_guard lock(mutex_);
    Account& account = accounts_[row.key];
    if (has_keys()) account.tokens.add(now, row.output_tokens);
    account.spent += cost.total();
    if (hold) account.held -= std::exchange(hold->amount_, 0);
    cost_.hit += cost.hit;
    cost_.miss += cost.miss;
    cost_.output += cost.output;
  }
  if (ledger_) ledger_->append(std::move(row));
  return price ? std::optional(cost.total()) : std::nullopt;
}

json::Value Accounts::balance(const std::string& name) const {
  const Key* of = key(name);
  const bool is_granted = of && of->granted;
  const PicoUsd left = is_granted ? std::max<PicoUsd>(*of->granted - spent(name), 0) : 0;
  return json::Object{{"is_available", !is_granted || left > 0},
                      {"balance_infos", json::Array{json::Object{{"currency", "USD"},
                                                                 {"total_balance", usd_text(left)},
                                                                 {"granted_balance", usd_text(left)},
                                                                 {"topped_up_balance", usd_text(0)}}}}};
}

Accounts::Seen Accounts::seen() const {
  const std::lock_guard lock(mutex_);
  return {cost_, ledger_ ? ledger_->seen() : Ledger::Seen{}};
}

}  // namespace hadal::serve
