// The reference solver of tool tasks: it calls the tools of a live environment and writes down what
// it thinks and does. It knows the world's description and the interface, never the records.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "data/draft.h"
#include "data/world.h"

namespace hadal::data {

class Solver {
 public:
  Solver(Draft& draft, const World& world, Interface interface, const StoreEnvironment& environment)
      : draft_(draft), w_(world), interface_(interface), environment_(environment) {}

  void think(std::string_view thought);  // before the next message
  json::Value read(const std::string& key, const std::string& field);
  json::Value read_again(const std::string& key, const std::string& field);  // forgets what it saw
  std::vector<json::Value> read_all(const std::vector<std::string>& keys, const std::string& field);
  std::vector<std::pair<std::string, json::Value>> list(const std::string& field);
  void set(const std::string& key, const std::string& field, const json::Value& value);
  void place(const std::string& key, const std::string& to);
  void transfer(const std::string& from, const std::string& to, int amount);
  void finish(const std::string& answer);

 private:
  struct Place {  // where a record was seen in the paged list
    std::string id;
    int page = 0;
  };

  json::Value call(std::string_view tool,
                   json::Object arguments);                             // again, corrected, when refused
  int list_page(const std::string& field, int page);                    // the next page, 0 at the end
  std::string id_of(const std::string& key, const std::string& field);  // pages until it is seen
  bool paged() const { return interface_ == Interface::kPaged; }
  std::string take_thoughts();

  Draft& draft_;
  const World& w_;
  Interface interface_;
  StoreEnvironment environment_;
  std::string thoughts_;
  std::map<std::string, Place> places_;
  std::map<std::string, int> next_page_;                             // by field; 0 when all is seen
  std::map<std::pair<std::string, std::string>, json::Value> seen_;  // (field, key) of pages
  std::vector<std::string> order_;                                   // keys as listed
};

}  // namespace hadal::data
