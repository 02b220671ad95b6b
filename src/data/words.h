// The vocabulary of the synthetic data: common English words in groups. It is small on purpose: a
// model of a few million parameters speaks fluently only about few words.
#pragma once

#include <span>
#include <string>
#include <vector>

namespace hadal::data {

using Words = std::span<const char* const>;

namespace words {
extern const Words kNames, kCities, kAnimals, kFruits, kFoods, kObjects, kPlaces, kColours, kTools, kClothes;
extern const Words kJobs, kAdjectives, kVerbs, kDays, kMonths, kNumbers, kLetters, kCodes, kShort;
extern const Words kRooms, kShelves, kFolders, kTopics, kQueues, kTags, kRegions, kStates, kKinds;
extern const Words kEvents, kFiles, kNotes, kBooks, kTowns, kThings, kDishes, kTickets, kSensors, kRows, kPages;
extern const Words kBoxes;

const std::vector<std::string>& vocabulary();  // every word above in small letters that is one plain word, once
}  // namespace words

std::string upper(std::string text);
std::string capital(std::string text);              // first letter in upper case
std::string with_article(const std::string& noun);  // "a cat", "an apple"
std::string plural(const std::string& noun);

}  // namespace hadal::data
