#include "data/story.h"

#include <fmt/format.h>

namespace hadal::data {
namespace {

constexpr const char* kGirls[] = {"Mia",  "Anna", "Lily", "Sara", "Emma", "Nora", "Ella", "Kate",
                                  "Ruth", "Ida",  "Amy",  "Zoe",  "Eva",  "Jane", "Rosa", "Tina"};
constexpr const char* kBoys[] = {"Tom",  "Ben",  "Max",  "Leo",  "Jack", "Sam",  "Dan",  "Finn",
                                 "Paul", "Hugo", "Carl", "Luke", "Otto", "Adam", "Nick", "Fred"};
constexpr const char* kSmall[] = {"ball", "book", "cup",  "key",   "lamp",   "map", "bell",  "coin", "drum",
                                  "flag", "kite", "ring", "spoon", "basket", "hat", "scarf", "boat", "mirror"};
constexpr const char* kBeasts[] = {"cat",    "dog", "bird", "horse", "goat",   "duck", "frog",  "mouse",
                                   "rabbit", "fox", "bear", "owl",   "turtle", "hen",  "sheep", "wolf"};
constexpr const char* kWhere[] = {"garden", "forest", "river",  "lake", "hill",  "beach", "farm",    "school",
                                  "park",   "market", "bridge", "barn", "field", "tower", "village", "shop"};
constexpr const char* kFood[] = {"bread",  "cheese",    "soup",      "cake",  "honey", "an apple",
                                 "a pear", "some nuts", "warm milk", "a pie", "plums", "rice"};
constexpr const char* kTraits[] = {"small",  "old",   "happy",  "kind",  "brave", "quiet", "fast",  "slow",
                                   "clever", "funny", "hungry", "tired", "young", "shy",   "proud", "gentle"};
constexpr const char* kFeels[] = {"happy",           "proud",       "glad",         "calm",
                                  "tired but happy", "full of joy", "very pleased", "thankful"};
constexpr const char* kTime[] = {"One day",   "One morning",  "One evening",  "On a cold day", "On a warm day",
                                 "In spring", "In summer",    "In autumn",    "In winter",     "Last week",
                                 "Long ago",  "After school", "Before lunch", "On a windy day"};

// Slots: n hero, p/P pronoun, q his/her, o him/her, a trait, k friend's kind, f friend's name, b
// friend's trait, t thing, u another thing, c colour, l and m places, e food, w when, j feeling.
struct Plot {
  const char* about;
  std::vector<std::string_view> lines;
  std::vector<std::pair<std::string_view, std::string_view>> questions;
};

const std::vector<Plot>& plots() {
  using L = std::vector<std::string_view>;
  using Q = std::vector<std::pair<std::string_view, std::string_view>>;
  static const std::string_view kEnd =
      "[In the end {n} was {j}.|{n} went home and was {j}.|That night {n} felt {j}.|{P} was {j} "
      "for the rest of the day.|So the day ended well, and {n} was {j}.|Now {n} is {j}.]";
  static const std::vector<Plot> kPlots = {
      {"a lost thing",
       L{"{n} was a {a} child who [loved|liked|always carried] {q} {c} {t}.",
         "{w} the {t} was [gone|lost|not in its place].",
         "{n} looked [near the {m}|in every room|under the bed], but [found only a {u}|it was not "
         "there|saw nothing].",
         "[A|Then a] {b} {k} called {f} [said|told {o}], \"[I saw it|Look|Try] [near|at|by] the "
         "{l}.\"",
         "{n} [ran|walked|hurried] to the {l} and [found|saw|picked up] the {t}.", kEnd},
       Q{{"What did {n} lose?", "{t}"},
         {"What colour was the {t}?", "{c}"},
         {"Who helped {n}?", "{f}"},
         {"Where was the {t}?", "{l}"}}},
      {"a new friend",
       L{"{n} was {a} and [had no friends|lived alone|often played alone] near the {m}.",
         "{w} {n} [went|walked|came] to the {l}.", "There sat a {b} {k} [named|called] {f}.",
         "\"[Do you want to|Shall we|Can we] [play|walk|eat together]?\" asked {f}.",
         "They shared {e} and [played|talked|laughed] until [dark|night|the sun went down].", kEnd},
       Q{{"Who was the new friend?", "{f}"},
         {"Where did they meet?", "{l}"},
         {"What did they share?", "{e}"},
         {"What kind of animal was {f}?", "{k}"}}},
      {"a gift",
       L{"[It was the birthday of {f}, a {b} {k}.|{f}, a {b} {k}, had a birthday.]",
         "{n} wanted to [give|bring] {f} a {t}.", "{P} [went|walked] to the {l} and [bought|made|found] a {c} one.",
         "{P} [put|wrapped] it in [paper|a cloth|a box] and [carried|brought] it to the {m}.",
         "{f} [opened|looked at] it and [jumped with joy|sang a song|danced around].", kEnd},
       Q{{"Who had a birthday?", "{f}"},
         {"What was the gift?", "{t}"},
         {"What colour was the gift?", "{c}"},
         {"From where did {n} get it?", "{l}"}}},
      {"a storm",
       L{"{w} {n} and {q} {b} {k} {f} were at the {l}.",
         "[Dark clouds came.|The wind grew strong.|It began to rain hard.]", "{f} was [afraid|scared|wet and cold].",
         "{n} [held|took] a {c} {t} [over them|above {f}|and said: do not fear].",
         "They [ran|walked slowly|hurried] to the {m} and [waited|sat by the fire|drank tea].",
         "[Soon the sun came back.|After an hour the storm was over.|Then it was quiet again.]", kEnd},
       Q{{"Where were they when the storm came?", "{l}"},
         {"Where did they wait?", "{m}"},
         {"What did {n} hold?", "{t}"},
         {"Who was afraid?", "{f}"}}},
      {"a race",
       L{"{f} the {k} [said|told everyone|was sure], \"I am the fastest [at|near|around] the "
         "{m}.\"",
         "{n}, who was {a}, said, \"[Let us race|We will see|I will run too].\"",
         "{w} they [ran|raced] from the {m} to the {l}.",
         "{f} was ahead, but [stopped to eat {e}|fell over a {t}|looked back too often].",
         "{n} [ran on|did not stop|kept going] and [won|came first].", "The prize was a {c} {u}.", kEnd},
       Q{{"Who won the race?", "{n}"},
         {"Where did the race end?", "{l}"},
         {"What was the prize?", "{u}"},
         {"Who lost the race?", "{f}"}}},
      {"a hungry guest",
       L{"{w} someone [knocked at|stood before|scratched at] the door of {n}.", "It was {f}, a {b} {k} from the {l}.",
         "\"I am so hungry,\" said {f}. \"[Do you have food?|May I eat with you?|Can you help "
         "me?]\"",
         "{n} [had only|gave away|shared] {e}[.|, and {f} ate it all.]",
         "The next day {f} [came back with|brought|left] a {c} {t} [as thanks|for {n}|at the "
         "door].",
         kEnd},
       Q{{"Who was hungry?", "{f}"},
         {"What did {f} get to eat?", "{e}"},
         {"What did {f} bring the next day?", "{t}"},
         {"From where did {f} come?", "{l}"}}},
      {"a broken thing",
       L{"{n} [dropped|broke|fell on] the {c} {t} of {q} [mother|father|sister|brother].",
         "{P} was [sad|sorry|afraid to tell].", "{w} {p} took it to {f}, a {b} {k} [at|near|by] the {l}.",
         "{f} [worked|fixed it|took some glue and worked] [for an hour|all day|until it was "
         "whole].",
         "For this {n} gave {f} {e}.", kEnd},
       Q{{"What was broken?", "{t}"},
         {"Who fixed it?", "{f}"},
         {"What did {f} get for it?", "{e}"},
         {"Where did {f} live?", "{l}"}}},
      {"a treasure",
       L{"{n} found a [map|letter|note] in an old {u}.", "It [said|showed|told]: [go to|dig at|look by] the {l}.",
         "{w} {n} [went|set out] with {f}, a {b} {k}.",
         "They [dug|looked|searched] [for a long time|until noon|under a tree], and [there "
         "was|they found|out came] a {c} {t}.",
         "\"[What a day!|We did it!|Look at that!]\" [said|called|cried] {f}.", kEnd},
       Q{{"What did they find?", "{t}"},
         {"Where was the treasure?", "{l}"},
         {"Who went with {n}?", "{f}"},
         {"Where was the map?", "{u}"}}},
      {"a lesson",
       L{"{n} wanted to learn to [swim|climb|sing|draw|cook].",
         "{P} was {a}, and it [was hard|went badly|did not work] at first.", "{w} {n} met {f}, a {b} {k}, at the {l}.",
         "\"[Try again|Go slowly|Do it every day],\" said {f}, \"and [I will help|do not give "
         "up|you will see].\"",
         "{n} [tried|worked] for [a week|many days|a month] and then [could do it well|it was "
         "easy|all was well].",
         "{f} gave {o} a {c} {t}.", kEnd},
       Q{{"Who helped {n} learn?", "{f}"},
         {"Where did they meet?", "{l}"},
         {"What did {f} give to {n}?", "{t}"},
         {"What colour was the {t}?", "{c}"}}},
      {"a trip",
       L{"{n} [packed|took] a {c} {t} and {e}.", "{w} {p} [left|set out] for the {l}.",
         "[The road was long.|The way was steep.|It was far.] [At|Near] the {m} {p} [met|saw] {f}, "
         "a {b} {k}.",
         "They [walked on together|went on side by side|became friends at once].",
         "At the {l} they [sat down|rested] and ate {e}.", kEnd},
       Q{{"Where did {n} go?", "{l}"},
         {"What did they eat?", "{e}"},
         {"Who walked with {n}?", "{f}"},
         {"Where did they meet?", "{m}"}}},
      {"a night sound",
       L{"At night {n} heard a [strange|loud|soft] sound from the {l}.",
         "{P} was [not afraid|a little afraid|wide awake] and took a {c} {t}.",
         "[Slowly|Quietly|Step by step] {p} [went|walked] out.",
         "It was only {f}, a {b} {k}, who [sang|cried|played with a {u}|looked for food].",
         "{n} [laughed|smiled] and [gave {f} {e}|brought {e} for {f}].", kEnd},
       Q{{"From where did the sound come?", "{l}"},
         {"Who made the sound?", "{f}"},
         {"What did {n} take?", "{t}"},
         {"What kind of animal was {f}?", "{k}"}}},
      {"a garden",
       L{"{n} [planted|put] a seed [near|by|behind] the {l}.", "Every day {p} gave it water from a {c} {t}.",
         "{f}, a {b} {k}, [kept the birds away|watched it at night|sang to it].",
         "{w} [a tree|a tall plant|a flower] [stood there|had grown|was there].",
         "They [ate|had|made] {e} [under it|beside it|in its shade].", kEnd},
       Q{{"Where was the seed?", "{l}"},
         {"What held the water?", "{t}"},
         {"Who helped {n}?", "{f}"},
         {"What did they eat?", "{e}"}}},
      {"a lie",
       L{"{n} [took|ate] {e} from {f}, a {b} {k}.", "\"[It was not me|I did not see it|The wind took it],\" {n} said.",
         "But {f} saw [crumbs|a spot|a bit of it] on {q} {c} {u}.",
         "{n} [was sorry|turned red|felt bad] and told the truth [by|at] the {l}.",
         "{w} {n} gave {f} a {t}, and [all was well|they were friends again|{f} smiled].", kEnd},
       Q{{"Whose food was it?", "{f}"},
         {"What was taken?", "{e}"},
         {"Where did {n} tell the truth?", "{l}"},
         {"What did {n} give to {f}?", "{t}"}}},
      {"a job",
       L{"{n} worked [at|in|near] the {l} and was {a}.",
         "{w} {q} boss, a {b} {k} called {f}, [said|asked], \"[Bring me|Find me|I need] the {c} "
         "{t}.\"",
         "{n} looked [by the {m}|behind the {u}|everywhere].", "[At last|After an hour|Then] {p} saw it near the {m}.",
         "{f} [paid {o} well|gave {o} {e}|said thank you].", kEnd},
       Q{{"Who was the boss?", "{f}"},
         {"What did {f} need?", "{t}"},
         {"Where was the {t}?", "{m}"},
         {"Where did {n} work?", "{l}"}}},
      {"a wish",
       L{"{n} [had|kept|held] one wish: a {c} {t}.",
         "{w} at the {l} {p} [saved|helped|freed] {f}, a {b} {k}, [from a net|from the water|from "
         "a deep hole].",
         "\"[You are good|Thank you],\" said {f}. \"[Close your eyes|Turn around|Count to "
         "three].\"",
         "When {n} looked again, the {t} [lay there|was in {q} hand|stood before {o}].", kEnd},
       Q{{"What did {n} wish for?", "{t}"},
         {"Who was saved?", "{f}"},
         {"Where was {f}?", "{l}"},
         {"What colour was the {t}?", "{c}"}}},
      {"a swap",
       L{"{n} had a {t}, and {f} the {k} had a {c} {u}.", "{w} they met at the {l}.",
         "\"[Let us swap|I will trade with you|Give me yours for mine],\" said {f}.",
         "{n} [thought for a while|was {a} and said yes|looked at both and agreed].",
         "So {n} [got|took] the {u}, and both ate {e}.", kEnd},
       Q{{"What did {n} have at first?", "{t}"},
         {"What did {n} get?", "{u}"},
         {"Where did they meet?", "{l}"},
         {"Who got the {t}?", "{f}"}}},
      {"a party",
       L{"{n} [planned|made|held] a party [at|by|near] the {l}.",
         "{P} [cooked|brought|made] {e} and hung up a {c} {t}.",
         "{f}, a {b} {k}, came [first|early|before all others] with a {u}.",
         "[They danced|They sang old songs|All the guests laughed] until [late|morning|the moon "
         "was high].",
         kEnd},
       Q{{"Where was the party?", "{l}"},
         {"Who came first?", "{f}"},
         {"What was there to eat?", "{e}"},
         {"What did {f} bring?", "{u}"}}},
      {"a boat",
       L{"{n} built a boat from [wood|old boards|a door] and a {c} {t}.",
         "{w} {p} [sailed|went] over the water to the {l}.",
         "[A big wave came|The boat took in water|The wind was too strong], and {n} [called for "
         "help|held on|was in danger].",
         "{f}, a {b} {k}, [pulled {o} out|swam to {o}|threw {o} a rope].",
         "They [sat in the sun|made a fire] and ate {e}.", kEnd},
       Q{{"Where did {n} sail?", "{l}"},
         {"Who saved {n}?", "{f}"},
         {"What did they eat?", "{e}"},
         {"What kind of animal was {f}?", "{k}"}}},
      {"a letter",
       L{"{w} a letter came for {n}.", "It was from {f}, a {b} {k} who lived [near|by|at] the {l}.",
         "\"[Come soon|Please visit me|I miss you],\" it said, \"and bring {e}.\"",
         "{n} took {q} {c} {t} and [went|left|set out] at once.",
         "They [talked|sat together] [for hours|all night] at the {l}.", kEnd},
       Q{{"Who wrote the letter?", "{f}"},
         {"Where did {f} live?", "{l}"},
         {"What should {n} bring?", "{e}"},
         {"What did {n} take?", "{t}"}}},
      {"a hard choice",
       L{"{n} could [buy|have|keep] a {c} {t} or {e}[.|, but not both.]",
         "{P} was {a} and [thought all day|could not choose|asked everyone].",
         "{w} {p} asked {f}, a {b} {k} at the {l}.",
         "\"[Take what lasts|Take what you need|Listen to your heart],\" said {f}.",
         "So {n} took the {t} and [never was sorry|used it every day|showed it to all].", kEnd},
       Q{{"What did {n} take?", "{t}"},
         {"Whom did {n} ask?", "{f}"},
         {"Where was {f}?", "{l}"},
         {"What colour was the {t}?", "{c}"}}},
  };
  return kPlots;
}

}  // namespace

std::string expand(std::string_view pattern, Rng& rng, const Slots& slots) {
  std::string out;
  for (size_t i = 0; i < pattern.size(); ++i) {
    if (pattern[i] != '[') {
      out += pattern[i];
      continue;
    }
    std::vector<std::string_view> choices;
    size_t begin = i + 1, depth = 1;
    for (++i; depth > 0; ++i) {
      HADAL_CHECK(i < pattern.size());
      if (pattern[i] == '[') ++depth;
      if (pattern[i] == ']') --depth;
      if ((pattern[i] == '|' && depth == 1) || depth == 0) {
        choices.push_back(pattern.substr(begin, i - begin));
        begin = i + 1;
      }
    }
    --i;
    out += expand(rng.pick(choices), rng, {});
  }
  return slots.empty() ? out : fill(out, slots);
}

int plot_count() { return static_cast<int>(plots().size()); }

Story make_story(Rng& rng) {
  const bool girl = rng.chance(50);
  const std::string hero = girl ? rng.pick(kGirls) : rng.pick(kBoys),
                    friend_name = girl ? rng.pick(kBoys) : rng.pick(kGirls);
  const auto things = rng.sample(std::size(kSmall), 2), places = rng.sample(std::size(kWhere), 2);
  const Slots slots = {{"n", hero},
                       {"p", girl ? "she" : "he"},
                       {"P", girl ? "She" : "He"},
                       {"q", girl ? "her" : "his"},
                       {"o", girl ? "her" : "him"},
                       {"a", rng.pick(kTraits)},
                       {"f", friend_name},
                       {"k", rng.pick(kBeasts)},
                       {"b", rng.pick(kTraits)},
                       {"t", kSmall[things[0]]},
                       {"u", kSmall[things[1]]},
                       {"c", rng.pick(words::kColours)},
                       {"l", kWhere[places[0]]},
                       {"m", kWhere[places[1]]},
                       {"e", rng.pick(kFood)},
                       {"w", rng.pick(kTime)},
                       {"j", rng.pick(kFeels)}};
  const Plot& plot = rng.pick(plots());
  Story story{.hero = hero,
              .thing = kSmall[things[0]],
              .beast = fill("{k}", slots),
              .place = kWhere[places[0]],
              .plot = plot.about,
              .text = {},
              .questions = {}};
  for (const std::string_view line : plot.lines) {
    std::string said = expand(line, rng, slots);
    for (size_t at = 0; (at = said.find(" a ", at)) != std::string::npos; ++at)  // "a old" is "an old"
      if (at + 3 < said.size() && std::string_view("aeiou").find(said[at + 3]) != std::string_view::npos)
        said.insert(at + 2, "n");
    story.text += (story.text.empty() ? "" : " ") + said;
  }
  for (const auto& [asks, answer] : plot.questions) story.questions.push_back({fill(asks, slots), fill(answer, slots)});
  return story;
}

std::string filler_sentence(Rng& rng) {
  static constexpr std::string_view kPatterns[] = {
      "The [{a} {k}|{k}] [walked|ran|went|came] [to|past|around|behind] the {l}.",
      "A {k} [sat|slept|waited|stood] [near|under|beside|behind] the {l}.",
      "[It was|The day was|The air was|The night was] [warm|cold|quiet|dark|bright|clear].",
      "The wind [moved|shook|touched] the [leaves|grass|trees|water].",
      "[Someone|A child|An old man|A woman] [opened|closed|left|painted] the [door|window|gate].",
      "The {k} and the {k2} [shared|ate|wanted|smelled] the {e}.",
      "[Nobody|Everyone] [saw|liked|heard|knew] the {a} {k}.",
      "There was a {c} {t} [on|near|under] the [table|chair|wall|road].",
      "[In the morning|At noon|In the evening|At night] the {k} [sang|played|rested|looked "
      "around].",
      "The {t} was [{a}|{c}] and the {u} was [new|clean|round|soft].",
      "[Rain|Snow|Sun] [came|fell|stayed] over the {l}.",
      "[They|We|You] can [see|find|hear] the {l} from [here|the road|the hill].",
      "The {a} {k} [did not|could not|would not] [sleep|eat|wait|speak].",
      "[Some|Many|A few] [people|birds|children] [like|visit|remember] the {l}.",
      "A {c} [bird|leaf|cloud|flower] [was|stayed|came down] [near|over|by] the {l}.",
      "[Then|Later|After that|Soon] the {k} [turned|went back|was gone|fell asleep]."};
  const Slots slots = {{"a", rng.pick(kTraits)}, {"k", rng.pick(kBeasts)},       {"k2", rng.pick(kBeasts)},
                       {"l", rng.pick(kWhere)},  {"e", rng.pick(words::kFoods)}, {"c", rng.pick(words::kColours)},
                       {"t", rng.pick(kSmall)},  {"u", rng.pick(kSmall)}};
  return expand(rng.pick(kPatterns), rng, slots);
}

std::string filler(Rng& rng, int tokens) {
  std::string out;
  for (int left = tokens; left > 0;) {
    const std::string sentence = filler_sentence(rng);
    left -= rough_tokens(sentence);
    out += (out.empty() ? "" : " ") + sentence;
  }
  return out;
}

int rough_tokens(std::string_view text) {
  int tokens = 0, letters = 0;
  for (const char c : text) {
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    letters = letter ? letters + 1 : 0;
    if (letter)
      tokens += letters == 1 || letters == 8;
    else if (c != ' ')
      ++tokens;
  }
  return tokens;
}

}  // namespace hadal::data
