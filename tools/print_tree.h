// How trees of status are shown: as JSON (objects; lists where the node's value is "[]"; numbers and true/false where
// the text is one) and as text. Text from elsewhere is made harmless for a terminal and valid UTF-8.
#pragma once

#include <string>

#include "base/status_tree.h"

namespace holdfast::tools {

std::string ToJson(const StatusTree& tree);
std::string ToText(const StatusTree& tree);         // any tree: indented name: value
std::string StatusText(const StatusTree& status);   // `holdfast status`
std::string HistoryText(const StatusTree& history); // `holdfast history`
std::string ConfigText(const StatusTree& config);

}  // namespace holdfast::tools
