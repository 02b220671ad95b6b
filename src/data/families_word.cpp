// What words mean: groups, opposites, short explanations, and a few plain facts about the world.
//
// These are knowledge, not rules: dev and test ask in other words about what training has told, and
// the plain lists are told in training in several ways each. Their instances are the texts of the
// questions.

#include <fmt/format.h>

#include <algorithm>

#include "data/family.h"
#include "data/story.h"

namespace hadal::data {
namespace {

struct Group {
  const char *one, *many;
  Words words;
};
std::span<const Group> groups() {
  static const Group kGroups[] = {{"animal", "animals", words::kAnimals},
                                  {"fruit", "fruits", words::kFruits},
                                  {"tool", "tools", words::kTools},
                                  {"colour", "colours", words::kColours},
                                  {"job", "jobs", words::kJobs},
                                  {"city", "cities", words::kCities},
                                  {"month", "months", words::kMonths},
                                  {"day", "days of the week", words::kDays},
                                  {"thing to wear", "things to wear", words::kClothes}};
  return kGroups;
}

void category(Draft& d) {
  const size_t right = d.rng.below(groups().size());
  const Group& group = groups()[right];
  std::vector<std::string> items{d.rng.pick(group.words)};
  const std::string answer = items[0];
  for (int i = 0; i < 2 + d.difficulty; ++i) {
    size_t other = d.rng.below(groups().size() - 1);
    other += other >= right;
    items.emplace_back(d.rng.pick(groups()[other].words));
    if (items.back() == "orange") items.back() = "red";
  }
  d.rng.shuffle(items);
  const bool none_else = right != 1 || std::count(items.begin(), items.end(), "orange") <= 1;
  if (!none_else || !d.admits(group.one + join(items))) return;
  d.ask(d.phrase({"Which of these is {o}: {x}", "Find the {g}: {x}", "One of these is {o}. Which: {x}",
                  "Name the {g} in: {x}", "Where is the {g}: {x}", "Pick the {g}: {x}"},
                 {{"o", with_article(group.one)}, {"g", group.one}, {"x", join(items)}}));
  d.say(answer, fmt::format("{} is {}.", capital(answer), with_article(group.one)));
}

void odd_one_out(Draft& d) {
  const size_t right = d.rng.below(groups().size());
  const size_t other = (right + 1 + d.rng.below(groups().size() - 1)) % groups().size();
  const Group& group = groups()[right];
  const size_t n = std::min<size_t>(static_cast<size_t>(3 + d.difficulty), group.words.size());
  std::vector<std::string> items;
  for (const size_t i : d.rng.sample(group.words.size(), n)) items.emplace_back(group.words[i]);
  const std::string answer = d.rng.pick(groups()[other].words);
  items.push_back(answer);
  d.rng.shuffle(items);
  if (answer == "orange" || !d.admits(join(items))) return;
  d.ask(d.phrase({"Which does not belong: {x}", "Find the odd one out: {x}", "One is of another kind. Which: {x}",
                  "What does not fit: {x}", "Name the one that is different: {x}", "The stranger among {x}?"},
                 {{"x", join(items)}}));
  d.say(answer,
        fmt::format("The others are {}. {} is {}.", group.many, capital(answer), with_article(groups()[other].one)));
}

constexpr std::pair<const char*, const char*> kOpposites[] = {
    {"hot", "cold"},   {"big", "small"},  {"old", "young"},    {"fast", "slow"},   {"happy", "sad"},
    {"up", "down"},    {"left", "right"}, {"day", "night"},    {"black", "white"}, {"open", "closed"},
    {"full", "empty"}, {"hard", "soft"},  {"long", "short"},   {"high", "low"},    {"heavy", "light"},
    {"wet", "dry"},    {"loud", "quiet"}, {"rich", "poor"},    {"near", "far"},    {"early", "late"},
    {"first", "last"}, {"good", "bad"},   {"clean", "dirty"},  {"strong", "weak"}, {"true", "false"},
    {"in", "out"},     {"over", "under"}, {"before", "after"}, {"buy", "sell"},    {"win", "lose"},
    {"give", "take"},  {"come", "go"},    {"start", "end"},    {"love", "hate"},   {"laugh", "cry"},
    {"push", "pull"},  {"thick", "thin"}, {"wide", "narrow"},  {"sweet", "sour"},  {"sharp", "blunt"}};

constexpr std::string_view kBefore =
    "[|Please: |Tell me, |Say, |I wonder: |A question: |Quick, |Now, |Next: |So, |Well, |Hello. ]";

void opposite(Draft& d) {
  const auto& [a, b] = d.rng.pick(kOpposites);
  const bool turned = d.rng.chance(50);
  const Slots slots = {{"w", turned ? b : a}};
  const std::string ask = capital(
      expand(std::string(kBefore) + "[what is the opposite of {w}?|which word is the opposite of {w}?|the opposite of "
                                    "{w}?|what is {w} turned around?|name the opposite of {w}.|give the opposite of "
                                    "{w}.|not {w}, but what?|{w}: what is the opposite?]",
             d.rng, slots));
  if (!d.admits(ask)) return;
  d.ask(ask);
  d.say(turned ? a : b, fmt::format("The opposite of {} is {}.", turned ? b : a, turned ? a : b));
}

struct Meaning {
  const char *word, *means;
};
constexpr Meaning kMeanings[] = {{"cat", "a small animal with soft fur that people keep at home and that catches mice"},
                                 {"dog", "an animal that people keep as a friend and that guards the house"},
                                 {"bird", "an animal with wings and feathers"},
                                 {"fish", "an animal that lives in water and swims"},
                                 {"horse", "a large animal that people ride"},
                                 {"cow", "a large animal that gives milk"},
                                 {"sheep", "an animal that gives wool"},
                                 {"bee", "a small insect that makes honey"},
                                 {"owl", "a bird that flies at night"},
                                 {"frog", "a small green animal that jumps and lives near water"},
                                 {"tree", "a tall plant with a trunk and leaves"},
                                 {"flower", "the part of a plant that has colour and a sweet smell"},
                                 {"grass", "low green plants that cover a field"},
                                 {"seed", "a small thing from which a plant grows"},
                                 {"leaf", "a flat green part of a plant"},
                                 {"forest", "a place with many trees"},
                                 {"river", "water that flows to the sea"},
                                 {"lake", "a large area of water with land all around"},
                                 {"sea", "a very large area of salt water"},
                                 {"island", "land with water all around"},
                                 {"hill", "a place that is higher than the land around it"},
                                 {"mountain", "a very high hill"},
                                 {"beach", "the sand at the edge of the sea"},
                                 {"desert", "a dry place with much sand and little rain"},
                                 {"sun", "the star that gives us light and warmth"},
                                 {"moon", "the bright body that goes around the earth"},
                                 {"star", "a point of light in the night sky"},
                                 {"rain", "water that falls from the clouds"},
                                 {"snow", "soft white ice that falls in winter"},
                                 {"ice", "water that is frozen hard"},
                                 {"wind", "air that moves"},
                                 {"cloud", "a white or grey thing in the sky made of tiny drops"},
                                 {"storm", "very strong wind with rain"},
                                 {"fire", "heat and light that come from something burning"},
                                 {"house", "a building where people live"},
                                 {"school", "a place where children learn"},
                                 {"shop", "a place where things are sold"},
                                 {"farm", "a place where food is grown and animals are kept"},
                                 {"bridge", "a road over water"},
                                 {"road", "a way for cars and people"},
                                 {"door", "the part of a house that you open to go in"},
                                 {"window", "an opening in a wall with glass in it"},
                                 {"roof", "the top of a house"},
                                 {"kitchen", "the room where people cook"},
                                 {"garden", "a place where flowers and food plants grow"},
                                 {"market", "a place where many people buy and sell"},
                                 {"tower", "a tall and narrow building"},
                                 {"boat", "a small thing to travel on water"},
                                 {"ship", "a large boat"},
                                 {"train", "a row of cars that runs on rails"},
                                 {"wheel", "a round thing that turns and lets a car roll"},
                                 {"bell", "a metal thing that rings"},
                                 {"clock", "a thing that shows the time"},
                                 {"lamp", "a thing that gives light"},
                                 {"key", "a small metal thing that opens a lock"},
                                 {"lock", "a thing that keeps a door closed"},
                                 {"book", "many pages with words to read"},
                                 {"letter", "a message on paper, or one sign of the alphabet"},
                                 {"map", "a drawing that shows where places are"},
                                 {"pen", "a thing to write with"},
                                 {"paper", "thin sheets to write on"},
                                 {"cup", "a thing to drink from"},
                                 {"plate", "a flat dish for food"},
                                 {"spoon", "a tool for eating soup"},
                                 {"knife", "a tool for cutting"},
                                 {"hammer", "a tool for hitting nails"},
                                 {"nail", "a thin piece of metal that holds wood together"},
                                 {"ladder", "a thing with steps to climb up"},
                                 {"needle", "a thin sharp tool for sewing"},
                                 {"rope", "a strong thick string"},
                                 {"mirror", "a glass in which you see yourself"},
                                 {"candle", "a stick of wax that burns and gives light"},
                                 {"basket", "a thing made of thin wood to carry things in"},
                                 {"bottle", "a thing of glass that holds water or milk"},
                                 {"coin", "a round piece of metal that is money"},
                                 {"hat", "a thing to wear on your head"},
                                 {"coat", "a warm thing to wear outside"},
                                 {"shoe", "a thing to wear on your foot"},
                                 {"scarf", "a long cloth to wear around your neck"},
                                 {"bread", "food made from flour and baked"},
                                 {"cheese", "food made from milk"},
                                 {"soup", "hot food that is like thick water"},
                                 {"honey", "sweet food that bees make"},
                                 {"sugar", "a sweet white powder"},
                                 {"salt", "a white powder that is in the sea and on food"},
                                 {"cake", "a sweet food that is baked"},
                                 {"teacher", "a person who helps others to learn"},
                                 {"doctor", "a person who helps sick people"},
                                 {"farmer", "a person who grows food"},
                                 {"baker", "a person who makes bread"},
                                 {"sailor", "a person who works on a ship"},
                                 {"cook", "a person who makes meals"},
                                 {"king", "a man who rules a country"},
                                 {"friend", "a person you like and trust"},
                                 {"child", "a young person"},
                                 {"winter", "the cold time of the year"},
                                 {"summer", "the warm time of the year"},
                                 {"morning", "the first part of the day"},
                                 {"night", "the time when it is dark"},
                                 {"week", "a time of seven days"},
                                 {"year", "a time of twelve months"},
                                 {"hour", "a time of sixty minutes"},
                                 {"number", "a word or sign that says how many"},
                                 {"word", "a group of letters that means something"},
                                 {"list", "several things written one after the other"},
                                 {"stack", "a pile where the last thing put on is the first taken off"},
                                 {"program", "a list of steps that a computer follows"},
                                 {"computer", "a machine that works with numbers and text"},
                                 {"model", "a program that has learned from many examples"},
                                 {"token", "a piece of text that a model reads as one"},
                                 {"file", "a named piece of data on a computer"},
                                 {"tool", "a thing that helps you to do work"},
                                 {"happy", "feeling good and glad"},
                                 {"sad", "feeling bad, so that you may cry"},
                                 {"brave", "not afraid to do a hard thing"},
                                 {"kind", "good to others"},
                                 {"hungry", "wanting to eat"},
                                 {"tired", "wanting to sleep"},
                                 {"quiet", "making little sound"},
                                 {"walk", "to move on foot"},
                                 {"swim", "to move through water"},
                                 {"sleep", "to rest with closed eyes"},
                                 {"sing", "to make music with your voice"}};

void explain(Draft& d) {
  const Meaning& meaning = d.rng.pick(kMeanings);
  const std::string ask =
      capital(expand(std::string(kBefore) + "[what does {w} mean?|what is the meaning of {w}?|explain the word "
                                            "{w}.|what does the word {w} mean?|tell me what {w} means.|define "
                                            "{w}.|{w}: what does it mean?|can you explain {w}?]",
                     d.rng, {{"w", meaning.word}}));
  if (!d.admits(ask)) return;
  d.ask(ask);
  d.say(fmt::format("{}: {}.", capital(meaning.word), meaning.means), fmt::format("I know the word {}.", meaning.word),
        "I use simple words.", {.kind = Expectation::Kind::kContains, .values = {meaning.means}, .json = {}});
}

void guess_word(Draft& d) {
  const auto which = d.rng.sample(std::size(kMeanings), static_cast<size_t>(3 + d.difficulty));
  const Meaning& meaning = kMeanings[which[0]];
  std::vector<std::string> options;
  for (const size_t i : which) options.emplace_back(kMeanings[i].word);
  d.rng.shuffle(options);
  if (!d.admits(meaning.means + join(options))) return;
  d.ask(d.phrase(
      {"Which word means \"{m}\": {x}", "Find the word for \"{m}\": {x}", "What is \"{m}\"? Choose from {x}.",
       "\"{m}\" is which of these: {x}", "Pick the word for \"{m}\" from {x}.", "The word for \"{m}\", one of {x}?"},
      {{"m", meaning.means}, {"x", join(options)}}));
  d.say(meaning.word, fmt::format("{} means: {}.", capital(meaning.word), meaning.means));
}

struct PlainFact {
  const char *asks, *answer;  // asks is a pattern
};
constexpr PlainFact kFacts[] = {
    {"[what|which] colour [is|has] [the grass|grass]?", "green"},
    {"[what|which] colour [is|has] [the sky|the sky by day]?", "blue"},
    {"[what|which] colour [is|has] snow?", "white"},
    {"[what|which] colour [is|has] [a ripe banana|a lemon]?", "yellow"},
    {"[what|which] colour [is|has] blood?", "red"},
    {"[what|which] colour [is|has] coal?", "black"},
    {"[what|which] animal [gives|makes] [milk|our milk]?", "the cow"},
    {"[what|which] animal [gives|makes] [honey|our honey]?", "the bee"},
    {"[what|which] animal [gives|has] [wool|our wool]?", "the sheep"},
    {"[what|which] animal says [meow|\"meow\"]?", "the cat"},
    {"[what|which] animal [barks|says woof]?", "the dog"},
    {"[what|which] bird flies [at|by] night?", "the owl"},
    {"how many legs [has|are on] [a dog|a cat|a horse|a cow]?", "4"},
    {"how many legs [has|are on] [a bird|a hen|a duck|an owl]?", "2"},
    {"how many legs [has|are on] [an insect|a bee|an ant]?", "6"},
    {"how many legs [has|are on] a spider?", "8"},
    {"how many days [has|are in|make] a week?", "7"},
    {"how many months [has|are in|make] a year?", "12"},
    {"how many hours [has|are in|make] a day?", "24"},
    {"how many minutes [has|are in|make] an hour?", "60"},
    {"how many seconds [has|are in|make] a minute?", "60"},
    {"how many letters [has|are in] the [alphabet|English alphabet]?", "26"},
    {"how many sides [has|are on] [a triangle|every triangle]?", "3"},
    {"how many sides [has|are on] [a square|every square]?", "4"},
    {"[what|which] month [is|comes] [first in the year|at the start of the year]?", "January"},
    {"[what|which] month [is|comes] [last in the year|at the end of the year]?", "December"},
    {"[what|which] day [comes|is] after Monday?", "Tuesday"},
    {"[what|which] day [comes|is] before Sunday?", "Saturday"},
    {"what is frozen water [called|named]?", "ice"},
    {"what falls from the clouds [when it rains|in the rain]?", "water"},
    {"what [gives|brings] us light [by day|in the daytime]?", "the sun"},
    {"what do [bees|all bees] make?", "honey"},
    {"where do fish [live|swim]?", "in water"},
    {"[what|which] season is [the coldest|the cold one]?", "winter"},
    {"[what|which] season is [the warmest|the warm one]?", "summer"},
    {"[what|which] season comes after winter?", "spring"},
    {"what is a young [dog called|dog]?", "a puppy"},
    {"what is a young [cat called|cat]?", "a kitten"},
    {"what do you [use to cut|cut] bread [with|]?", "a knife"},
    {"what do you wear on your [feet|foot]?", "shoes"},
    {"what do you wear on your [head|hair]?", "a hat"},
    {"what [opens|do you need to open] a lock?", "a key"}};

void simple_fact(Draft& d) {
  const PlainFact& fact = d.rng.pick(kFacts);
  const std::string ask = capital(expand(std::string(kBefore) + fact.asks, d.rng, {}));
  if (!d.admits(ask)) return;
  d.ask(ask);
  d.say(fact.answer, fmt::format("This is well known: {}.", fact.answer));
}

void number_neighbour(Draft& d) {
  const bool letters = d.difficulty == 0;
  const int step = letters ? 1 : d.difficulty;
  const bool after = d.rng.chance(50);
  const int n = letters ? d.rng.range(1, 24) : d.rng.range(step, 999 - step);
  const std::string item = letters ? words::kLetters[static_cast<size_t>(n)] : text(n);
  const int answer = after ? n + step : n - step;
  const std::string ask = expand(std::string(kBefore) +
                                     "[which {what} comes {s}{o} {i}?|what comes {s}{o} {i}?|name the {what} {s}{o} "
                                     "{i}.|give me the {what} {s}{o} {i}.|{s}{o} {i} comes which {what}?]",
                                 d.rng,
                                 {{"what", letters ? "letter" : "number"},
                                  {"s", step > 1 ? fmt::format("{} places ", step) : ""},
                                  {"o", after ? "after" : "before"},
                                  {"i", item}});
  if (!d.admits(ask)) return;
  d.ask(capital(ask));
  d.say(letters ? words::kLetters[static_cast<size_t>(answer)] : text(answer),
        letters ? fmt::format("In the alphabet: {} {} {}.", words::kLetters[static_cast<size_t>(n - 1)], item,
                              words::kLetters[static_cast<size_t>(n + 1)])
                : fmt::format("{} {} {} = {}.", n, after ? "+" : "-", step, answer));
}

}  // namespace

void add_word_families(std::vector<Family>& list) {
  const auto put = [&](const char* id, int trained, int hardest, int chance, void (*build)(Draft&)) {
    list.push_back(
        {.id = id, .kind = "word", .trained = trained, .hardest = hardest, .chance = chance, .build = build});
  };
  put("category", 3, 4, 45, category);
  put("odd-one-out", 3, 4, 35, odd_one_out);
  put("opposite", 0, 0, 5, opposite);
  put("explain", 0, 0, 2, explain);
  put("guess-word", 3, 4, 45, guess_word);
  put("simple-fact", 0, 0, 10, simple_fact);
  put("neighbour", 3, 4, 10, number_neighbour);
}

}  // namespace hadal::data
