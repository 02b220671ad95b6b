#include "data/words.h"

#include <algorithm>

namespace hadal::data {
namespace words {

#define HADAL_WORDS(name, ...)                        \
  namespace {                                         \
  constexpr const char* name##List[] = {__VA_ARGS__}; \
  }                                                   \
  const Words name(name##List)

HADAL_WORDS(kNames, "Mia", "Tom", "Anna", "Ben", "Lily", "Max", "Sara", "Leo", "Emma", "Jack", "Nora", "Sam", "Ella",
            "Dan", "Kate", "Finn", "Ruth", "Paul", "Ida", "Hugo", "Amy", "Carl", "Zoe", "Luke", "Eva", "Otto", "Jane",
            "Adam", "Rosa", "Nick", "Tina", "Mark", "Lena", "Fred", "Olga", "Ray", "Vera", "Ivan", "Cora", "Gus");
HADAL_WORDS(kCities, "Oslo", "Rome", "Paris", "Lima", "Cairo", "Delhi", "Tokyo", "Bern", "Dublin", "Quito", "Seoul",
            "Hanoi", "Berlin", "Madrid", "Riga", "Boston");
HADAL_WORDS(kAnimals, "cat", "dog", "bird", "fish", "horse", "cow", "sheep", "goat", "pig", "duck", "frog", "mouse",
            "rabbit", "fox", "bear", "wolf", "lion", "owl", "bee", "ant", "snake", "turtle", "hen", "deer");
HADAL_WORDS(kFruits, "apple", "pear", "plum", "grape", "lemon", "orange", "banana", "cherry", "melon", "peach", "berry",
            "lime");
HADAL_WORDS(kFoods, "bread", "cheese", "soup", "rice", "milk", "egg", "cake", "honey", "salt", "sugar", "butter", "tea",
            "bean", "corn", "nut", "pie");
HADAL_WORDS(kObjects, "ball", "book", "box", "cup", "key", "lamp", "map", "pen", "stone", "table", "chair", "clock",
            "bag", "bell", "boat", "coin", "door", "drum", "flag", "kite", "leaf", "mirror", "plate", "ring", "rope",
            "ship", "spoon", "star", "wheel", "bottle", "candle", "basket");
HADAL_WORDS(kPlaces, "house", "garden", "forest", "river", "lake", "hill", "beach", "farm", "school", "park", "market",
            "bridge", "barn", "cave", "field", "kitchen", "road", "shop", "tower", "village");
HADAL_WORDS(kColours, "red", "blue", "green", "yellow", "black", "white", "brown", "pink", "grey", "purple");
HADAL_WORDS(kTools, "hammer", "saw", "nail", "ladder", "brush", "broom", "shovel", "needle", "knife", "axe");
HADAL_WORDS(kClothes, "hat", "coat", "shoe", "shirt", "sock", "scarf", "glove", "dress", "belt", "boot");
HADAL_WORDS(kJobs, "teacher", "farmer", "baker", "doctor", "sailor", "painter", "driver", "cook", "singer", "builder");
HADAL_WORDS(kAdjectives, "big", "small", "old", "new", "happy", "sad", "kind", "brave", "quiet", "loud", "fast", "slow",
            "warm", "cold", "clean", "soft", "hard", "bright", "dark", "round", "long", "short", "heavy", "light",
            "clever", "funny", "hungry", "tired", "lost", "lucky");
HADAL_WORDS(kVerbs, "walk", "run", "jump", "sing", "play", "read", "sleep", "swim", "cook", "work", "draw", "dance",
            "wait", "laugh", "climb", "dig");
HADAL_WORDS(kDays, "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday");
HADAL_WORDS(kMonths, "January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
            "November", "December");
HADAL_WORDS(kNumbers, "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
            "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty");
HADAL_WORDS(kLetters, "a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p", "q", "r", "s",
            "t", "u", "v", "w", "x", "y", "z");
HADAL_WORDS(kCodes, "alpha", "beta", "gamma", "delta", "echo", "fox", "golf", "hotel", "iris", "jade", "kilo", "lima",
            "mango", "nova", "omega", "pixel", "quartz", "romeo", "sigma", "tango");
HADAL_WORDS(kShort, "sun", "moon", "tree", "hand", "wind", "rain", "snow", "fire", "sand", "gold", "milk", "road",
            "song", "game", "time", "word", "line", "foot", "head", "door", "wall", "wood", "iron", "rose", "seed",
            "wing", "wave", "cloud", "grass", "light", "night", "water", "stone", "field", "green", "paper", "music",
            "heart");
HADAL_WORDS(kRooms, "hall", "kitchen", "attic", "cellar", "garage", "study", "bedroom", "bathroom");
HADAL_WORDS(kShelves, "top", "middle", "bottom", "left", "right", "front", "back", "window");
HADAL_WORDS(kFolders, "home", "work", "photos", "music", "backup", "drafts", "public", "school");
HADAL_WORDS(kTopics, "travel", "garden", "health", "money", "family", "ideas", "food", "sport");
HADAL_WORDS(kQueues, "billing", "support", "sales", "repair", "office", "network", "safety", "delivery");
HADAL_WORDS(kTags, "news", "games", "science", "art", "maps", "films", "code", "cooking");
HADAL_WORDS(kRegions, "north", "south", "east", "west", "coast", "valley", "hills", "plain");
HADAL_WORDS(kStates, "ok", "warm", "cold", "wet", "dry", "off");
HADAL_WORDS(kKinds, "text", "list", "flag", "count", "date", "path");
HADAL_WORDS(kEvents, "lunch", "dentist", "lesson", "concert", "meeting", "party", "training", "dinner", "visit", "call",
            "exam", "picnic", "market", "match", "review", "workshop");
HADAL_WORDS(kFiles, "plan.txt", "cat.png", "song.mp3", "tax.pdf", "list.txt", "map.png", "talk.md", "log.txt",
            "bill.pdf", "home.html", "code.c", "data.csv", "menu.txt", "letter.md", "team.png", "old.zip");
HADAL_WORDS(kNotes, "shopping", "dreams", "trip", "repairs", "birthdays", "recipes", "wishes", "songs", "plants",
            "letters", "budget", "jokes", "exercise", "quotes", "chores", "gifts");
HADAL_WORDS(kBooks, "Silent Lake", "Red Kite", "Old Tower", "Night Train", "Green Door", "Last Winter", "Blue Stone",
            "Paper Boats", "Iron Gate", "Golden Bee", "Dark Forest", "Lost Ring", "White Horse", "Long Road",
            "Small Hours", "Warm Rain");
HADAL_WORDS(kTowns, "Ashford", "Birkdale", "Coldwell", "Dunmore", "Eastby", "Fairview", "Glenrock", "Hillton", "Kirkby",
            "Longmere", "Millway", "Norwick", "Oakham", "Redbank", "Stonely", "Westbury");
HADAL_WORDS(kThings, "torch", "blanket", "crate", "statue", "vase", "trunk", "armour", "carpet", "globe", "harp",
            "anchor", "barrel", "mask", "shield", "stool", "lantern");
HADAL_WORDS(kDishes, "lentil soup", "apple pie", "fish stew", "rice salad", "corn bread", "egg curry", "bean chili",
            "onion tart", "pasta bake", "plum cake", "beef roast", "leek soup", "potato mash", "fruit bowl",
            "cheese toast", "mint tea");
HADAL_WORDS(kTickets, "T11", "T14", "T19", "T23", "T27", "T32", "T36", "T41", "T45", "T52", "T58", "T63", "T67", "T74",
            "T81", "T86");
HADAL_WORDS(kSensors, "roof", "pump", "oven", "tank", "pipe", "motor", "fan", "gate", "pool", "boiler", "valve", "belt",
            "mast", "drain", "turbine", "freezer");
HADAL_WORDS(kRows, "row A", "row B", "row C", "row D", "row E", "row F", "row G", "row H", "row K", "row L", "row M",
            "row N", "row P", "row R", "row S", "row T");
HADAL_WORDS(kPages, "weather page", "chess club", "star atlas", "bread blog", "bike forum", "radio site", "word list",
            "city guide", "bird log", "film index", "paint shop", "math corner", "moon map", "tea house", "poem wall",
            "ship finder");
HADAL_WORDS(kBoxes, "oak box", "tin box", "toy box", "old box", "big box", "wide box", "flat box", "deep box",
            "new box", "tall box", "gift box", "post box", "ice box", "iron box", "tea box", "mini box");
#undef HADAL_WORDS

const std::vector<std::string>& vocabulary() {
  static const std::vector<std::string> kVocabulary = [] {
    std::vector<std::string> all;
    for (const Words group :
         {kAnimals, kFruits, kFoods,   kObjects, kPlaces, kColours, kTools, kClothes, kJobs,   kAdjectives, kVerbs,
          kShort,   kRooms,  kShelves, kFolders, kTopics, kQueues,  kTags,  kRegions, kEvents, kThings,     kSensors})
      for (const char* word : group)
        if (std::find(all.begin(), all.end(), word) == all.end()) all.emplace_back(word);
    return all;
  }();
  return kVocabulary;
}

}  // namespace words

namespace {
bool is_lower(char c) { return c >= 'a' && c <= 'z'; }
}  // namespace

std::string upper(std::string text) {
  for (char& c : text)
    if (is_lower(c)) c = static_cast<char>(c - 'a' + 'A');
  return text;
}

std::string capital(std::string text) {
  if (!text.empty() && is_lower(text[0])) text[0] = static_cast<char>(text[0] - 'a' + 'A');
  return text;
}

std::string with_article(const std::string& noun) {
  const bool vowel = !noun.empty() && std::string_view("aeiou").find(noun[0]) != std::string_view::npos;
  return (vowel ? "an " : "a ") + noun;
}

std::string plural(const std::string& noun) {
  static constexpr std::pair<std::string_view, std::string_view> kOdd[] = {
      {"mouse", "mice"},  {"sheep", "sheep"},  {"fish", "fish"},  {"deer", "deer"},
      {"wolf", "wolves"}, {"knife", "knives"}, {"leaf", "leaves"}};
  for (const auto& [one, many] : kOdd)
    if (noun == one) return std::string(many);
  if (noun.ends_with("s") || noun.ends_with("x") || noun.ends_with("ch") || noun.ends_with("sh")) return noun + "es";
  if (noun.ends_with("y") && noun.size() > 1 &&
      std::string_view("aeiou").find(noun[noun.size() - 2]) == std::string_view::npos)
    return noun.substr(0, noun.size() - 1) + "ies";
  return noun + "s";
}

}  // namespace hadal::data
