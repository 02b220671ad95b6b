// Arithmetic, with the scratch work of pen and paper as reasoning.

#include <fmt/format.h>

#include <algorithm>
#include <tuple>

#include "data/family.h"

namespace hadal::data {
namespace {

int power(int base, int exponent) {
  int out = 1;
  for (int i = 0; i < exponent; ++i) out *= base;
  return out;
}

// Element `index` of the unordered pairs below n: 0 <= b <= a < n.
std::pair<int, int> unordered_pair(size_t index) {
  int a = 0;
  while (static_cast<size_t>(a + 1) * static_cast<size_t>(a + 2) / 2 <= index) ++a;
  return {a, static_cast<int>(index) - a * (a + 1) / 2};
}
size_t unordered_pairs(int n) { return static_cast<size_t>(n) * static_cast<size_t>(n + 1) / 2; }

// Two numbers of that many digits, a >= b. One and two digits are enumerated, so that a sum belongs
// to one split whatever its order.
bool draw_pair(Draft& d, int digits, int& a, int& b) {
  const int low = digits == 1 ? 0 : power(10, digits - 1), n = power(10, digits) - low;
  if (digits <= 2) {
    std::tie(a, b) = unordered_pair(d.element(fmt::format("{} digits", digits), unordered_pairs(n)));
    a += low;
    b += low;
    return true;
  }
  a = low + static_cast<int>(d.rng.below(static_cast<size_t>(n)));
  b = low + static_cast<int>(d.rng.below(static_cast<size_t>(n)));
  if (a < b) std::swap(a, b);
  return d.admits(fmt::format("{} {}", a, b));
}

// One of the numbers of that many digits, enumerated.
int draw_number(Draft& d, int digits) {
  const int low = power(10, digits - 1);
  return low + static_cast<int>(d.element(fmt::format("{} digits", digits), static_cast<size_t>(9 * low)));
}

std::string carry_steps(int a, int b) {
  std::string out;
  for (int x = a, y = b, carry = 0; x > 0 || y > 0 || carry > 0; x /= 10, y /= 10) {
    const int sum = x % 10 + y % 10 + carry;
    const bool more = x >= 10 || y >= 10 || sum >= 10;
    out += carry ? fmt::format("{} + {} + {} = {}", x % 10, y % 10, carry, sum)
                 : fmt::format("{} + {} = {}", x % 10, y % 10, sum);
    carry = sum / 10;
    out += more ? fmt::format(", write {}, carry {}. ", sum % 10, carry) : ". ";
    if (x < 10 && y < 10 && carry) {
      out += fmt::format("Write {}. ", carry);
      break;
    }
  }
  return out;
}

std::string borrow_steps(int a, int b) {
  std::string out;
  for (int x = a, y = b, borrow = 0; x > 0; x /= 10, y /= 10) {
    const int top = x % 10 - borrow, under = y % 10;
    borrow = top < under;
    out += borrow ? fmt::format("{} is less than {}: {} - {} = {}, borrow 1. ", top, under, top + 10, under,
                                top + 10 - under)
                  : fmt::format("{} - {} = {}. ", top, under, top - under);
  }
  return out;
}

void add(Draft& d) {
  int a = 0, b = 0;
  if (!draw_pair(d, d.difficulty + 1, a, b)) return;
  if (d.rng.chance(50)) std::swap(a, b);
  d.ask(d.phrase({"What is {a} + {b}?", "{a} + {b} = ?", "Add {a} and {b}.", "How much is {a} plus {b}?",
                  "Please add {b} to {a}.", "Compute {a} + {b}.", "The sum of {a} and {b}?"},
                 {{"a", text(a)}, {"b", text(b)}}));
  d.say(text(a + b),
        d.difficulty == 0 ? fmt::format("{} + {} = {}.", a, b, a + b)
                          : fmt::format("From the right: {}Together {}.", carry_steps(a, b), a + b),
        fmt::format("I check: {} - {} = {}. Right.", a + b, b, a));
}

void subtract(Draft& d) {
  int a = 0, b = 0;
  if (!draw_pair(d, d.difficulty + 1, a, b)) return;
  d.ask(d.phrase({"What is {a} - {b}?", "{a} - {b} = ?", "Take {b} from {a}.", "How much is {a} minus {b}?",
                  "Subtract {b} from {a}.", "Compute {a} - {b}.", "What is left of {a} without {b}?"},
                 {{"a", text(a)}, {"b", text(b)}}));
  d.say(text(a - b),
        d.difficulty == 0 ? fmt::format("{} - {} = {}.", a, b, a - b)
                          : fmt::format("From the right: {}That gives {}.", borrow_steps(a, b), a - b),
        fmt::format("I check: {} + {} = {}. Right.", a - b, b, a));
}

void multiply(Draft& d) {
  int a = 0, b = 0;
  const int digits = d.difficulty + 1;
  if (digits == 1) {
    std::tie(a, b) = unordered_pair(d.element("1 digit", unordered_pairs(10)));
    if (d.rng.chance(50)) std::swap(a, b);
  } else {
    a = d.rng.range(power(10, digits - 1), power(10, digits) - 1);
    b = d.rng.range(2, 9);
    if (!d.admits(fmt::format("{} {}", a, b))) return;
  }
  d.ask(d.phrase({"What is {a} x {b}?", "{a} x {b} = ?", "Multiply {a} by {b}.", "How much is {a} times {b}?",
                  "Take {a} {b} times.", "Compute {a} x {b}.", "The product of {a} and {b}?"},
                 {{"a", text(a)}, {"b", text(b)}}));
  std::string steps, parts;
  int total = 0;
  for (int unit = power(10, digits - 1); unit > 0; unit /= 10) {
    const int part = a / unit % 10 * unit;
    if (digits > 1) steps += fmt::format("{} x {} = {}. ", part, b, part * b);
    if (total > 0) parts += fmt::format("{} + {} = {}. ", total, part * b, total + part * b);
    total += part * b;
  }
  d.say(text(a * b), digits == 1 ? fmt::format("{} x {} = {}.", a, b, a * b) : steps + parts);
}

void remainder(Draft& d) {
  const int low = 10 + 20 * d.difficulty, index = static_cast<int>(d.element(fmt::format("from {}", low), 20 * 8));
  const int a = low + index / 8, b = 2 + index % 8;
  d.ask(d.phrase({"What is left when {a} is divided by {b}?", "Divide {a} by {b}. What is the rest?",
                  "The remainder of {a} by {b}?", "{a} shared by {b}: how much is left over?",
                  "What rest does {a} leave by {b}?", "Find the remainder of {a} divided by {b}."},
                 {{"a", text(a)}, {"b", text(b)}}));
  d.say(text(a % b), fmt::format("{} x {} = {}. {} - {} = {}.", a / b, b, a / b * b, a, a / b * b, a % b));
}

void compare(Draft& d) {
  const int digits = d.difficulty + 2, low = power(10, digits - 1);
  const int a = d.rng.range(low, 10 * low - 1);
  const int b = d.rng.chance(50)
                    ? d.rng.range(low, 10 * low - 1)
                    : a + (d.rng.chance(50) ? 1 : -1) * power(10, d.rng.range(0, digits - 2)) * d.rng.range(1, 3);
  const bool larger = d.rng.chance(50);
  if (a == b || b < 1 || !d.admits(fmt::format("{} {} {}", a, b, larger))) return;
  d.ask(d.phrase(
      {"Which is {w}, {a} or {b}?", "{a} or {b}: which is {w}?", "Say the {w} one: {a}, {b}",
       "Of {a} and {b}, which one is {w}?", "Name the {w} number: {a} or {b}", "Is {a} {w} or {b}? Give the number."},
      {{"w", larger ? "larger" : "smaller"}, {"a", text(a)}, {"b", text(b)}}));
  const std::string x = text(a), y = text(b);
  size_t at = 0;
  while (x.size() == y.size() && x[at] == y[at]) ++at;
  d.say(text(larger ? std::max(a, b) : std::min(a, b)),
        x.size() != y.size() ? fmt::format("{} has {} digits, {} has {}.", x, x.size(), y, y.size())
                             : fmt::format("Digit {} differs: {} and {}. So {} is {}.", at + 1, x[at], y[at],
                                           larger ? std::max(a, b) : std::min(a, b), larger ? "larger" : "smaller"));
}

void sequence(Draft& d) {
  const int step = d.rng.range(1, 4 + 3 * d.difficulty), start = d.rng.range(0, 40), n = 4;
  const bool down = d.rng.chance(30);
  std::vector<std::string> items;
  const int first = down ? start + n * step : start, by = down ? -step : step;
  for (int i = 0; i < n; ++i) items.push_back(text(first + i * by));
  if (!d.admits(join(items))) return;
  d.ask(d.phrase({"What comes next: {x}", "Continue: {x}", "The next number after {x}?", "Go on with one number: {x}",
                  "Which number follows {x}?", "Say the next one: {x}"},
                 {{"x", join(items)}}));
  const int last = first + (n - 1) * by;
  d.say(text(last + by), fmt::format("Each step is {} {}. {} {} {} = {}.", down ? "minus" : "plus", step, last,
                                     down ? "-" : "+", step, last + by));
}

void parity(Draft& d) {
  const int n = draw_number(d, d.difficulty + 2);
  d.ask(d.phrase({"Is {n} even or odd?", "Even or odd: {n}", "Tell me if {n} is even or odd.",
                  "What is {n}, even or odd?", "{n}: odd or even?", "Say even or odd for {n}."},
                 {{"n", text(n)}}));
  d.say(n % 2 ? "odd" : "even", fmt::format("The last digit is {}, which is {}.", n % 10, n % 2 ? "odd" : "even"));
}

void word_problem(Draft& d) {
  const std::string name = d.rng.pick(words::kNames), thing = plural(d.rng.pick(words::kFruits));
  int have = d.rng.range(3, 20);
  std::string story = fmt::format("{} has {} {}.", name, have, thing), steps;
  for (int i = 0; i <= d.difficulty; ++i) {
    const bool gets = have < 4 || d.rng.chance(50);
    const int n = gets ? d.rng.range(1, 12) : d.rng.range(1, have - 1);
    static constexpr const char* kGet[] = {"finds {} more", "buys {} more", "gets {} from a friend"};
    static constexpr const char* kLose[] = {"eats {}", "gives {} away", "loses {}", "sells {}"};
    const std::string_view way = gets ? d.rng.pick(kGet) : d.rng.pick(kLose);
    story += fmt::format(" {} {}.", i == 0 ? name : "Then " + name, fmt::format(fmt::runtime(way), n));
    const int now = gets ? have + n : have - n;
    steps += fmt::format("{} {} {} = {}. ", have, gets ? "+" : "-", n, now);
    have = now;
  }
  if (!d.admits(story)) return;
  d.ask(story + " " +
        d.phrase(
            {"How many {t} does {n} have now?", "How many {t} are left?", "How many {t} is that?",
             "Count the {t} of {n}.", "What number of {t} does {n} have at the end?", "How many {t} has {n} got now?"},
            {{"t", thing}, {"n", name}}));
  d.say(text(have), steps + fmt::format("So {} {}.", have, thing));
}

std::string number_words(int n) {
  static constexpr const char* kTens[] = {"",      "",      "twenty",  "thirty", "forty",
                                          "fifty", "sixty", "seventy", "eighty", "ninety"};
  if (n <= 20) return words::kNumbers[static_cast<size_t>(n)];
  if (n < 100)
    return std::string(kTens[n / 10]) + (n % 10 ? std::string("-") + words::kNumbers[static_cast<size_t>(n % 10)] : "");
  if (n < 1000) return number_words(n / 100) + " hundred" + (n % 100 ? " " + number_words(n % 100) : "");
  return number_words(n / 1000) + " thousand" + (n % 1000 ? " " + number_words(n % 1000) : "");
}

void number_to_words(Draft& d) {
  const int limit = d.difficulty == 0 ? 100 : d.difficulty == 1 ? 1000 : d.difficulty == 2 ? 10000 : 100000;
  const int low = d.difficulty == 0 ? 0 : limit / 10;
  const int n = low + static_cast<int>(d.element(fmt::format("under {}", limit), static_cast<size_t>(limit - low)));
  const bool to_words = d.rng.chance(50);
  const std::string written = number_words(n);
  std::string parts;
  if (n >= 1000) parts += fmt::format("{} thousand. ", n / 1000);
  if (n >= 100) parts += fmt::format("{} hundred. ", n / 100 % 10);
  parts += fmt::format("{}: {}.", n % 100, number_words(n % 100));
  if (to_words) {
    d.ask(d.phrase({"Write {n} in words.", "How do you say {n}?", "{n} in words?", "Spell out the number {n}.",
                    "Say {n} with words.", "Put {n} into words."},
                   {{"n", text(n)}}));
    d.say(written, parts);
  } else {
    d.ask(d.phrase({"Write {n} in digits.", "{n} as a number?", "Which number is {n}?", "Turn into digits: {n}",
                    "Give {n} in digits.", "Put {n} into digits."},
                   {{"n", written}}));
    d.say(text(n), fmt::format("{} is {}.", written, n));
  }
}

void digit_sum(Draft& d) {
  const int n = draw_number(d, d.difficulty + 2);
  d.ask(d.phrase({"Add the digits of {n}.", "What is the digit sum of {n}?", "Sum of the digits of {n}?",
                  "Add up every digit in {n}.", "The digits of {n} make which sum?", "Find the digit sum of {n}."},
                 {{"n", text(n)}}));
  std::string steps;
  int total = 0;
  for (const char c : text(n)) {
    steps += fmt::format("{}{}", total || !steps.empty() ? " + " : "", c - '0');
    total += c - '0';
  }
  d.say(text(total), fmt::format("{} = {}.", steps, total));
}

}  // namespace

void add_number_families(std::vector<Family>& list) {
  const auto put = [&](const char* id, int trained, int chance, void (*build)(Draft&)) {
    list.push_back(
        {.id = id, .kind = "number", .trained = trained, .hardest = trained + 1, .chance = chance, .build = build});
  };
  put("add", 3, 10, add);
  put("subtract", 3, 20, subtract);
  put("multiply", 2, 15, multiply);
  put("remainder", 3, 35, remainder);
  put("compare", 3, 60, compare);
  put("sequence", 4, 10, sequence);
  put("parity", 4, 60, parity);
  put("word-problem", 3, 20, word_problem);
  put("number-words", 2, 5, number_to_words);
  put("digit-sum", 3, 15, digit_sum);
}

}  // namespace hadal::data
