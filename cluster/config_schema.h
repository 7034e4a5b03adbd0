// The vocabulary of cluster.conf, read from the RELAX NG schema itself so that there is one list only: which attributes
// and children an element may have, and what we accept without acting on it (hf:unused). Used to set unknown items
// aside, with a remark, before the strict validation.
#pragma once

#include <libxml/tree.h>

#include <map>
#include <set>
#include <string>
#include <vector>

#include "base/result.h"
#include "cluster/config.h"

namespace holdfast::cluster {

struct ElementRule {
  std::set<std::string> attributes;
  std::set<std::string> unused_attributes;
  std::set<std::string> children;
  bool any_attribute = false;
  bool any_content = false;  // below it nothing is looked at
  bool unused = false;
};

class ConfigSchema {
 public:
  static const ConfigSchema& Get();  // parsed once

  // Removes what the schema does not know; adds remarks for it and for what is not acted on.
  void Prune(xmlDocPtr document, std::vector<Remark>& remarks) const;
  // Errors of the pruned document: (line, text).
  std::vector<std::pair<int, std::string>> Validate(xmlDocPtr document) const;

 private:
  ConfigSchema();
  void PruneElement(xmlNodePtr element, std::vector<Remark>& remarks) const;
  bool Judge(xmlNodePtr element, std::vector<std::pair<int, std::string>>& errors) const;
  std::map<std::string, ElementRule> rules_;
};

}  // namespace holdfast::cluster
