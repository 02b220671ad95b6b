// Stories: telling one, and reading one.

#include <fmt/format.h>

#include "data/family.h"
#include "data/story.h"

namespace hadal::data {
namespace {

void tell(Draft& d) {
  const Story story = make_story(d.rng);
  if (story.text.find(story.thing) == std::string::npos) return;  // not every plot needs it
  if (!d.admits(fmt::format("{} {} {}", story.hero, story.thing, story.plot))) return;
  const bool with_plot = d.rng.chance(50);
  d.ask(d.phrase({"Tell me a short story about {n} and a {t}{p}.", "Write a little story with {n} and a {t}{p}.",
                  "I want a story about {n}. There must be a {t}{p}.", "A story, please: {n} and a {t}{p}.",
                  "Make up a story about {n} with a {t}{p}.", "Can you tell a story about {n} and a {t}{p}?",
                  "Give me a tale of {n} and a {t}{p}."},
                 {{"n", story.hero}, {"t", story.thing}, {"p", with_plot ? ", about " + story.plot : ""}}));
  d.say(story.text,
        fmt::format("The story is about {}. {} is the hero, and there is a {}. It needs a "
                    "beginning, a middle and an end.",
                    story.plot, story.hero, story.thing),
        fmt::format("I must name {} and the {}.", story.hero, story.thing),
        {.kind = Expectation::Kind::kStory, .values = {story.hero, story.thing}, .json = {}, .min_words = 25});
}

// As people ask: any story, or one with something in it.
void tell_any(Draft& d) {
  const Story story = make_story(d.rng);
  const auto holds = [&](const std::string& word) { return story.text.find(word) != std::string::npos; };
  std::vector<std::string> wanted{"", story.hero};
  if (holds(story.beast)) wanted.push_back(story.beast);
  if (holds(story.thing)) wanted.push_back(story.thing);
  const std::string about = d.rng.pick(wanted);
  if (!d.admits(fmt::format("{} {} {} {}", about, story.hero, story.thing, story.plot))) return;
  const std::string article = about.empty() || about == story.hero ? "" : about[0] == 'o' ? "an " : "a ";
  d.ask(d.phrase({"Tell me a story{x}.", "A story{x}, please.", "Can you tell me a story{x}?", "Tell a tiny story{x}.",
                  "Please tell me a short story{x}.", "I want to hear a story{x}.", "Do you know a story{x}?",
                  "One story{x}, if you can."},
                 {{"x", about.empty() ? "" : " about " + article + about}}));
  d.say(story.text,
        fmt::format("The story is about {}. {} is the hero{}.", story.plot, story.hero,
                    article.empty() ? "" : ", and there is " + article + about),
        "It needs a beginning, a middle and an end.",
        {.kind = Expectation::Kind::kStory,
         .values = about.empty() ? std::vector<std::string>{} : std::vector{about},
         .json = {},
         .min_words = 25});
}

void read(Draft& d) {
  const Story story = make_story(d.rng);
  const Question& question = d.rng.pick(story.questions);
  if (!d.admits(story.text + question.asks)) return;
  d.ask(d.phrase({"{s}\n{q}", "Read the story: {s}\nQuestion: {q}", "{s}\n\nNow answer: {q}",
                  "Here is a story. {s}\n{q}", "Story: {s} {q}", "{s}\nTell me: {q}"},
                 {{"s", story.text}, {"q", question.asks}}));
  // The sentence that says it.
  std::string sentence = story.text;
  for (size_t begin = 0; begin < story.text.size();) {
    const size_t end = std::min(story.text.find_first_of(".!?", begin), story.text.size());
    const std::string part = story.text.substr(begin, end - begin);
    if (part.find(question.answer) != std::string::npos) {
      sentence = part;
      break;
    }
    begin = std::min(story.text.find_first_not_of(".!?\" ", end), story.text.size());
  }
  d.say(question.answer, fmt::format("The story says: {}.", sentence));
}

void read_all(Draft& d) {  // several questions, one after the other
  const Story story = make_story(d.rng);
  if (!d.admits(story.text)) return;
  std::vector<Question> questions = story.questions;
  d.rng.shuffle(questions);
  d.ask(d.phrase({"Read this: {s}\n{q}", "{s}\nFirst question: {q}", "I will ask you about a story. {s}\n{q}",
                  "{s} {q}", "A story: {s}\n{q}"},
                 {{"s", story.text}, {"q", questions[0].asks}}));
  d.say(questions[0].answer, "I look for it in the story.");
  for (size_t i = 1; i < static_cast<size_t>(2 + d.difficulty); ++i) {
    d.ask(d.phrase({"{q}", "And {q}", "Next question: {q}", "Then tell me: {q}", "Also: {q}"},
                   {{"q", questions[i].asks}}));
    d.say(questions[i].answer, "I look for it in the story.");
  }
}

void hero(Draft& d) {
  const Story story = make_story(d.rng);
  if (!d.admits(story.text)) return;
  d.ask(d.phrase({"{s}\nWho is the story about?", "{s}\nName the hero of the story.", "Who is the hero here: {s}",
                  "Read: {s}\nAbout whom is it?", "{s}\nWhich person is in the middle of it?"},
                 {{"s", story.text}}));
  d.say(story.hero, fmt::format("The story is about {}. {} does the most.", story.plot, story.hero));
}

}  // namespace

void add_story_families(std::vector<Family>& list) {
  list.push_back({.id = "story-tell", .kind = "story", .trained = 0, .hardest = 0, .chance = 2, .build = tell});
  list.push_back({.id = "story-any", .kind = "story", .trained = 0, .hardest = 0, .chance = 2, .build = tell_any});
  list.push_back({.id = "story-read", .kind = "story", .trained = 0, .hardest = 0, .chance = 10, .build = read});
  list.push_back(
      {.id = "story-questions", .kind = "story", .trained = 1, .hardest = 2, .chance = 5, .build = read_all});
  list.push_back({.id = "story-hero", .kind = "story", .trained = 0, .hardest = 0, .chance = 20, .build = hero});
}

}  // namespace hadal::data
