// StatusTree: what a service says of itself, as a tree of names and values. The status command, its JSON and a failed
// simulation print the same tree. Order is kept; names may repeat (lists).
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace holdfast {

struct StatusTree {
  std::string name;
  std::string value;  // empty for an inner node
  std::vector<StatusTree> children;

  StatusTree() = default;
  explicit StatusTree(std::string n, std::string v = {}) : name(std::move(n)), value(std::move(v)) {}
  StatusTree& Add(std::string n, std::string v = {}) { return children.emplace_back(std::move(n), std::move(v)); }
};

}  // namespace holdfast
