// The sixteen worlds. All that makes them differ is in this table.

#include "data/world.h"

namespace hadal::data {

std::span<const World> worlds() {
  using namespace words;
  static const World kWorlds[] = {
      {.id = "store", .plural = "entries", .key = "entry", .keys = kCodes, .numbers = {"value", "version"},
       .low = {10, 1}, .high = {99, 40}, .word = "kind", .word_values = kKinds, .link = "alias", .motion = Motion::kNone,
       .get = "kv_get", .list = "kv_scan", .set = "kv_put", .move = nullptr},
      {.id = "contacts", .plural = "contacts", .key = "contact", .keys = kNames, .numbers = {"age", "phone"},
       .low = {18, 100}, .high = {79, 999}, .word = "city", .word_values = kCities, .link = "boss", .motion = Motion::kPlace,
       .get = "get_contact", .list = "list_contacts", .set = "edit_contact", .move = "relocate"},
      {.id = "shop", .plural = "items", .key = "item", .keys = kObjects, .numbers = {"price", "stock"},
       .low = {2, 1}, .high = {60, 40}, .word = "shelf", .word_values = kShelves, .link = "substitute", .motion = Motion::kPlace,
       .get = "get_item", .list = "list_items", .set = "set_item", .move = "move_item"},
      {.id = "bank", .plural = "accounts", .key = "account", .keys = kNames, .numbers = {"balance", "limit"},
       .low = {100, 10}, .high = {500, 99}, .word = "branch", .word_values = kCities, .link = "partner", .motion = Motion::kTransfer,
       .get = "read_account", .list = "all_accounts", .set = "set_account", .move = "pay"},
      {.id = "calendar", .plural = "events", .key = "event", .keys = kEvents, .numbers = {"minutes", "guests"},
       .low = {10, 1}, .high = {95, 40}, .word = "day", .word_values = kDays, .link = "follower", .motion = Motion::kPlace,
       .get = "see_event", .list = "list_events", .set = "change_event", .move = "reschedule"},
      {.id = "files", .plural = "files", .key = "file", .keys = kFiles, .numbers = {"size", "lines"},
       .low = {1, 5}, .high = {90, 400}, .word = "folder", .word_values = kFolders, .link = "copy", .motion = Motion::kPlace,
       .get = "stat_file", .list = "list_files", .set = "patch_file", .move = "mv"},
      {.id = "notes", .plural = "notes", .key = "note", .keys = kNotes, .numbers = {"length", "stars"},
       .low = {10, 1}, .high = {300, 40}, .word = "topic", .word_values = kTopics, .link = "sequel", .motion = Motion::kPlace,
       .get = "read_note", .list = "list_notes", .set = "write_note", .move = "refile"},
      {.id = "library", .plural = "books", .key = "book", .keys = kBooks, .numbers = {"pages", "copies"},
       .low = {60, 1}, .high = {400, 40}, .word = "reader", .word_values = kNames, .link = "prequel", .motion = Motion::kPlace,
       .get = "find_book", .list = "list_books", .set = "update_book", .move = "lend"},
      {.id = "routes", .plural = "towns", .key = "town", .keys = kTowns, .numbers = {"people", "trains"},
       .low = {100, 1}, .high = {900, 40}, .word = "region", .word_values = kRegions, .link = "neighbour", .motion = Motion::kNone,
       .get = "town_info", .list = "list_towns", .set = "set_town", .move = nullptr},
      {.id = "rooms", .plural = "things", .key = "thing", .keys = kThings, .numbers = {"weight", "height"},
       .low = {1, 5}, .high = {60, 90}, .word = "room", .word_values = kRooms, .link = "twin", .motion = Motion::kPlace,
       .get = "look_at", .list = "look_around", .set = "alter", .move = "carry"},
      {.id = "recipes", .plural = "dishes", .key = "dish", .keys = kDishes, .numbers = {"time", "servings"},
       .low = {5, 1}, .high = {90, 40}, .word = "base", .word_values = kFoods, .link = "side", .motion = Motion::kNone,
       .get = "get_recipe", .list = "list_recipes", .set = "change_recipe", .move = nullptr},
      {.id = "tickets", .plural = "tickets", .key = "ticket", .keys = kTickets, .numbers = {"priority", "hours"},
       .low = {1, 1}, .high = {50, 90}, .word = "queue", .word_values = kQueues, .link = "blocker", .motion = Motion::kPlace,
       .get = "open_ticket", .list = "list_tickets", .set = "set_ticket", .move = "assign"},
      {.id = "sensors", .plural = "sensors", .key = "sensor", .keys = kSensors, .numbers = {"reading", "battery"},
       .low = {10, 1}, .high = {99, 99}, .word = "status", .word_values = kStates, .link = "spare", .motion = Motion::kNone,
       .get = "read_sensor", .list = "poll_sensors", .set = nullptr, .move = nullptr},
      {.id = "table", .plural = "rows", .key = "row", .keys = kRows, .numbers = {"left", "right"},
       .low = {1, 1}, .high = {99, 99}, .word = "mark", .word_values = kColours, .link = nullptr, .motion = Motion::kNone,
       .get = "get_row", .list = "get_column", .set = "set_cell", .move = nullptr},
      {.id = "bookmarks", .plural = "pages", .key = "page", .keys = kPages, .numbers = {"visits", "rank"},
       .low = {1, 1}, .high = {200, 60}, .word = "tag", .word_values = kTags, .link = "mirror", .motion = Motion::kPlace,
       .get = "show_mark", .list = "list_marks", .set = "edit_mark", .move = "retag"},
      {.id = "boxes", .plural = "boxes", .key = "box", .keys = kBoxes, .numbers = {"balls", "coins"},
       .low = {20, 1}, .high = {90, 60}, .word = "colour", .word_values = kColours, .link = "holder", .motion = Motion::kTransfer,
       .get = "open_box", .list = "count_boxes", .set = "fill_box", .move = "move_balls"},
  };
  return kWorlds;
}

}  // namespace hadal::data
