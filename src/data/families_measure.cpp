// Units, clocks, calendars and coins, in whole numbers.

#include <fmt/format.h>

#include "data/family.h"

namespace hadal::data {
namespace {

std::string counted(int n, std::string_view noun) { return fmt::format("{} {}{}", n, noun, n == 1 ? "" : "s"); }

struct Unit {
  const char *large, *small;
  int factor;
};
constexpr Unit kUnits[] = {{"meters", "centimeters", 100},  {"kilometers", "meters", 1000},
                           {"hours", "minutes", 60},        {"minutes", "seconds", 60},
                           {"days", "hours", 24},           {"weeks", "days", 7},
                           {"years", "months", 12},         {"kilograms", "grams", 1000},
                           {"liters", "milliliters", 1000}, {"dozens", "pieces", 12}};

void units(Draft& d) {
  const int limit = 5 + 5 * d.difficulty,
            low = d.difficulty == 0 ? 1 : limit - 4;  // each difficulty has numbers of its own
  const size_t n = static_cast<size_t>(limit - low + 1),
               index = d.element(fmt::format("to {}", limit), std::size(kUnits) * n * 2);
  const Unit& unit = kUnits[index / 2 / n];
  const int large = low + static_cast<int>(index / 2 % n), small = large * unit.factor;
  const bool down = index % 2 == 0;
  d.ask(d.phrase({"How many {b} are {n} {a}?", "{n} {a} are how many {b}?", "Turn {n} {a} into {b}.",
                  "Give {n} {a} in {b}.", "Change {n} {a} to {b}.", "Convert {n} {a} to {b}."},
                 {{"n", text(down ? large : small)},
                  {"a", down ? unit.large : unit.small},
                  {"b", down ? unit.small : unit.large}}));
  const std::string rule = fmt::format("{} {} make one of the {}. ", unit.factor, unit.small, unit.large);
  d.say(text(down ? small : large), rule + (down ? fmt::format("{} x {} = {}.", large, unit.factor, small)
                                                 : fmt::format("{} : {} = {}.", small, unit.factor, large)));
}

std::string clock(int minutes) { return fmt::format("{}:{:02}", minutes / 60 % 24, minutes % 60); }

void clock_time(Draft& d) {
  const int start = d.rng.range(0, 23) * 60 + d.rng.range(0, 11) * 5;
  const int hours = d.difficulty == 0 ? 0 : d.rng.range(0, 2 * d.difficulty), minutes = d.rng.range(1, 11) * 5;
  const bool back = d.difficulty >= 2 && d.rng.chance(40);
  const int end = (start + 24 * 60 + (back ? -1 : 1) * (hours * 60 + minutes)) % (24 * 60);
  const std::string span =
      hours ? fmt::format("{} and {} minutes", counted(hours, "hour"), minutes) : fmt::format("{} minutes", minutes);
  if (!d.admits(fmt::format("{} {} {}", start, span, back))) return;
  const Slots slots = {{"t", clock(start)}, {"s", span}};
  d.ask(back ? d.phrase(
                   {"It is {t}. What time was it {s} ago?", "Now it is {t}. Which time was it {s} before?",
                    "{t} minus {s}?", "The clock shows {t}. What did it show {s} ago?", "What time is {s} before {t}?"},
                   slots)
             : d.phrase(
                   {"It is {t}. What time is it in {s}?", "Now it is {t}. Which time is it after {s}?", "{t} plus {s}?",
                    "The clock shows {t}. What will it show in {s}?", "What time is {s} after {t}?"},
                   slots));
  const int sign = back ? -1 : 1, after_hours = (start + 24 * 60 + sign * hours * 60) % (24 * 60);
  const std::string first = hours ? fmt::format("{} {} {} is {}. ", clock(start), back ? "minus" : "plus",
                                                counted(hours, "hour"), clock(after_hours))
                                  : "";
  d.say(clock(end), fmt::format("{}{} {} {} minutes is {}.", first, clock(after_hours), back ? "minus" : "plus",
                                minutes, clock(end)));
}

void weekday(Draft& d) {
  const int low = d.difficulty == 0 ? 1 : 2 + 6 * d.difficulty, n = 6 + (d.difficulty == 0 ? 1 : 0);
  const size_t index = d.element(fmt::format("from {}", low), static_cast<size_t>(7 * n * 2));
  const int start = static_cast<int>(index) % 7, days = low + static_cast<int>(index) / 7 % n;
  const bool back = static_cast<int>(index) / 7 / n == 1;
  const int end = (start + (back ? 700 - days : days)) % 7;
  const Slots slots = {{"d", words::kDays[static_cast<size_t>(start)]},
                       {"n", days == 1 ? "1 day" : fmt::format("{} days", days)}};
  d.ask(back ? d.phrase({"Today is {d}. Which day was it {n} ago?", "It is {d}. What day was it {n} before?",
                         "{d} minus {n}?", "What day is {n} before {d}?", "Name the day {n} before a {d}."},
                        slots)
             : d.phrase({"Today is {d}. Which day is it in {n}?", "It is {d}. What day comes after {n}?",
                         "{d} plus {n}?", "What day is {n} after {d}?", "Name the day {n} after a {d}."},
                        slots));
  const std::string answer = words::kDays[static_cast<size_t>(end)];
  d.say(answer,
        fmt::format("{} is {} and {}. {} {} {} is {}.", counted(days, "day"), counted(days / 7, "week"), days % 7,
                    words::kDays[static_cast<size_t>(start)], back ? "minus" : "plus", days % 7, answer));
}

void date(Draft& d) {
  static constexpr int kLengths[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
  int month = static_cast<int>(d.rng.below(11));
  int day = d.rng.range(1, kLengths[month]);
  const int days = d.rng.range(1 + 9 * d.difficulty, 9 + 9 * d.difficulty);
  if (!d.admits(fmt::format("{} {} {}", month, day, days))) return;
  const std::string start = fmt::format("{} {}", words::kMonths[static_cast<size_t>(month)], day);
  std::string steps = fmt::format("{} + {} = {}. ", day, days, day + days);
  day += days;
  while (day > kLengths[month]) {
    steps += fmt::format("{} has {} days: {} - {} = {}. ", words::kMonths[static_cast<size_t>(month)], kLengths[month],
                         day, kLengths[month], day - kLengths[month]);
    day -= kLengths[month];
    month = (month + 1) % 12;
  }
  const std::string end = fmt::format("{} {}", words::kMonths[static_cast<size_t>(month)], day);
  d.ask(d.phrase(
      {"Which date is {n} days after {s}? February has 28 days.", "February has 28 days. What is {s} plus {n} days?",
       "Today is {s}. Give the date in {n} days. February has 28 days.", "Add {n} days to {s}. February has 28 days.",
       "It is {s}. What will be the date {n} days later? February has 28 days."},
      {{"n", text(days)}, {"s", start}}));
  d.say(end, steps + fmt::format("So {}.", end));
}

void coins(Draft& d) {
  static constexpr int kValues[] = {1, 2, 5, 10, 20, 50};
  std::vector<std::string> parts;
  std::string steps;
  int total = 0;
  for (const size_t i : d.rng.sample(std::size(kValues), static_cast<size_t>(std::min(2 + d.difficulty, 6)))) {
    const int n = d.rng.range(2, 9), part = n * kValues[i];
    parts.push_back(fmt::format("{} coins of {}", n, kValues[i]));
    steps += fmt::format("{} x {} = {}. ", n, kValues[i], part);
    if (total > 0) steps += fmt::format("{} + {} = {}. ", total, part, total + part);
    total += part;
  }
  if (!d.admits(join(parts))) return;
  d.ask(d.phrase({"I have {x}. How much is that?", "How much money is {x}?", "Count my money: {x}.",
                  "What is the value of {x}?", "Add up the money: {x}.", "{x}: how much in all?"},
                 {{"x", join(parts, " and ")}}));
  d.say(text(total), steps + fmt::format("In all {}.", total));
}

void change(Draft& d) {
  const int n = d.rng.range(1, 2 + d.difficulty), price = d.rng.range(2, 9 + 5 * d.difficulty), cost = n * price;
  const int paid = (cost / 10 + d.rng.range(1, 3)) * 10;
  const std::string thing = d.rng.pick(words::kFoods);
  if (!d.admits(fmt::format("{} {} {} {}", n, price, paid, thing))) return;
  d.ask(d.phrase({"One {t} costs {p}. I buy {n} and pay {m}. How much do I get back?",
                  "I pay {m} for {n} of {t} at {p} each. What is my change?",
                  "A {t} is {p}. I take {n} and give {m}. What comes back?",
                  "{n} of {t} at {p} each, paid with {m}. How much is the change?",
                  "What change do I get from {m} for {n} of {t} at {p}?"},
                 {{"t", thing}, {"p", text(price)}, {"n", text(n)}, {"m", text(paid)}}));
  d.say(text(paid - cost), fmt::format("{} x {} = {}. {} - {} = {}.", n, price, cost, paid, cost, paid - cost));
}

void age(Draft& d) {
  const auto who = d.rng.sample(words::kNames.size(), static_cast<size_t>(2 + d.difficulty));
  int years = d.rng.range(10, 40);
  std::string story = fmt::format("{} is {} years old.", words::kNames[who[0]], years), steps;
  for (size_t i = 1; i < who.size(); ++i) {
    const int by = d.rng.range(1, 9);
    const bool older = years - by < 2 || d.rng.chance(50);
    story += fmt::format(" {} is {} {} than {}.", words::kNames[who[i]], counted(by, "year"),
                         older ? "older" : "younger", words::kNames[who[i - 1]]);
    const int now = older ? years + by : years - by;
    steps += fmt::format("{}: {} {} {} = {}. ", words::kNames[who[i]], years, older ? "+" : "-", by, now);
    years = now;
  }
  if (!d.admits(story)) return;
  d.ask(story + " " +
        d.phrase({"How old is {n}?", "What is the age of {n}?", "Tell me how old {n} is.", "Find the age of {n}.",
                  "Give the age of {n}."},
                 {{"n", words::kNames[who.back()]}}));
  d.say(text(years), steps);
}

}  // namespace

void add_measure_families(std::vector<Family>& list) {
  const auto put = [&](const char* id, int trained, int chance, void (*build)(Draft&)) {
    list.push_back(
        {.id = id, .kind = "number", .trained = trained, .hardest = trained + 1, .chance = chance, .build = build});
  };
  put("units", 3, 10, units);
  put("clock", 3, 10, clock_time);
  put("weekday", 3, 30, weekday);
  put("date", 3, 10, date);
  put("coins", 3, 5, coins);
  put("change", 3, 15, change);
  put("age", 3, 10, age);
}

}  // namespace hadal::data
