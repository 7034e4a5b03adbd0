#include "cluster/config_schema.h"

#include <libxml/parser.h>
#include <libxml/relaxng.h>

#include <cstring>
#include <memory>

#include "base/check.h"
#include "cluster/cluster_rng.h"

namespace holdfast::cluster {
namespace {

constexpr char kUnusedNs[] = "urn:holdfast:schema";

std::string Name(const xmlNode* node) { return reinterpret_cast<const char*>(node->name); }

std::string Attribute(xmlNodePtr node, const char* name) {
  xmlChar* value = xmlGetNoNsProp(node, reinterpret_cast<const xmlChar*>(name));
  std::string text = value ? reinterpret_cast<const char*>(value) : "";
  xmlFree(value);
  return text;
}

bool IsUnused(xmlNodePtr node) {
  xmlChar* value = xmlGetNsProp(node, BAD_CAST "unused", BAD_CAST kUnusedNs);
  bool unused = value != nullptr;
  xmlFree(value);
  return unused;
}

bool HasAnyName(xmlNodePtr node) {
  for (xmlNodePtr n = node->children; n; n = n->next)
    if (n->type == XML_ELEMENT_NODE && Name(n) == "anyName") return true;
  return false;
}

// The `element` of a define of the same name: our schema gives each element one.
void ReadRule(xmlNodePtr pattern, ElementRule& rule) {
  for (xmlNodePtr n = pattern->children; n; n = n->next) {
    if (n->type != XML_ELEMENT_NODE) continue;
    std::string kind = Name(n);
    if (kind == "attribute") {
      if (HasAnyName(n)) {
        rule.any_attribute = true;
      } else {
        rule.attributes.insert(Attribute(n, "name"));
        if (IsUnused(n)) rule.unused_attributes.insert(Attribute(n, "name"));
      }
    } else if (kind == "ref") {
      if (Attribute(n, "name") == "anything") rule.any_content = true;
      rule.children.insert(Attribute(n, "name"));
    } else {
      ReadRule(n, rule);
    }
  }
}

std::string OneLine(const char* text) {
  std::string line = text ? text : "";
  while (!line.empty() && (line.back() == '\n' || line.back() == ' ')) line.pop_back();
  for (char& c : line)
    if (c == '\n') c = ' ';
  return line;
}

void Collect(void* context, xmlErrorPtr error) {
  auto* words = static_cast<std::string*>(context);
  std::string text = OneLine(error->message);
  if (words->size() > 400 || words->find(text) != std::string::npos) return;
  *words += (words->empty() ? "" : "; ") + text;
}

// Validates the element and what is below it against the define of that name. Empty: it fits.
std::string ValidateElement(xmlNodePtr element) {
  // The schema begins at <cluster>; an element is judged by a schema that begins at it.
  static const std::string kStart = "<start><ref name=\"cluster\"/></start>";
  std::string schema_text = kClusterRng;
  size_t at = schema_text.find(kStart);
  HF_CHECK(at != std::string::npos, "the schema of cluster.conf has no start");
  schema_text.replace(at, kStart.size(), "<start><ref name=\"" + Name(element) + "\"/></start>");
  xmlRelaxNGParserCtxtPtr parser = xmlRelaxNGNewMemParserCtxt(schema_text.data(), static_cast<int>(schema_text.size()));
  xmlRelaxNGPtr schema = xmlRelaxNGParse(parser);
  xmlRelaxNGFreeParserCtxt(parser);
  HF_CHECK(schema != nullptr, "the schema of cluster.conf is not RELAX NG");
  xmlDocPtr document = xmlNewDoc(nullptr);
  xmlDocSetRootElement(document, xmlDocCopyNode(element, document, 1));
  xmlRelaxNGValidCtxtPtr context = xmlRelaxNGNewValidCtxt(schema);
  std::string words;
  xmlRelaxNGSetValidStructuredErrors(context, Collect, &words);
  bool fits = xmlRelaxNGValidateDoc(context, document) == 0;
  xmlRelaxNGFreeValidCtxt(context);
  xmlFreeDoc(document);
  xmlRelaxNGFree(schema);
  if (fits) return "";
  return words.empty() ? "does not match the schema" : words;
}

}  // namespace

const ConfigSchema& ConfigSchema::Get() {
  static const ConfigSchema* schema = new ConfigSchema;
  return *schema;
}

ConfigSchema::ConfigSchema() {
  xmlDocPtr document = xmlReadMemory(kClusterRng, sizeof kClusterRng - 1, "cluster.rng", nullptr, XML_PARSE_NONET);
  HF_CHECK(document != nullptr, "the schema of cluster.conf is not XML");
  for (xmlNodePtr define = xmlDocGetRootElement(document)->children; define; define = define->next) {
    if (define->type != XML_ELEMENT_NODE || Name(define) != "define") continue;
    for (xmlNodePtr n = define->children; n; n = n->next) {
      if (n->type != XML_ELEMENT_NODE || Name(n) != "element") continue;
      ElementRule rule;
      rule.unused = IsUnused(n);
      ReadRule(n, rule);
      rules_[Attribute(n, "name")] = std::move(rule);
    }
  }
  xmlFreeDoc(document);
}

void ConfigSchema::Prune(xmlDocPtr document, std::vector<Remark>& remarks) const {
  PruneElement(xmlDocGetRootElement(document), remarks);
}

void ConfigSchema::PruneElement(xmlNodePtr element, std::vector<Remark>& remarks) const {
  auto found = rules_.find(Name(element));
  if (found == rules_.end()) return;  // the root is not <cluster>: validation says so
  const ElementRule& rule = found->second;
  int line = static_cast<int>(xmlGetLineNo(element));
  if (rule.unused) remarks.push_back({Remark::Kind::kUnused, line, "<" + Name(element) + "> is accepted and not acted on"});
  if (rule.any_content) return;
  for (xmlAttrPtr a = element->properties; a;) {
    xmlAttrPtr next = a->next;
    std::string name = reinterpret_cast<const char*>(a->name);
    if (!rule.any_attribute && !rule.attributes.contains(name)) {
      remarks.push_back({Remark::Kind::kUnknown, line, "unknown attribute '" + name + "' of <" + Name(element) + "> is ignored"});
      xmlRemoveProp(a);
    } else if (rule.unused_attributes.contains(name)) {
      remarks.push_back({Remark::Kind::kUnused, line, "'" + name + "' of <" + Name(element) + "> is accepted and not acted on"});
    }
    a = next;
  }
  for (xmlNodePtr n = element->children; n;) {
    xmlNodePtr next = n->next;
    if (n->type == XML_ELEMENT_NODE) {
      if (rule.children.contains(Name(n))) {
        PruneElement(n, remarks);
      } else {
        remarks.push_back({Remark::Kind::kUnknown, static_cast<int>(xmlGetLineNo(n)),
                           "unknown element <" + Name(n) + "> in <" + Name(element) + "> is ignored"});
        xmlUnlinkNode(n);
        xmlFreeNode(n);
      }
    }
    n = next;
  }
}

// Errors are looked for from the leaves up: libxml2 says of an outer element only that something within is wrong.
bool ConfigSchema::Judge(xmlNodePtr element, std::vector<std::pair<int, std::string>>& errors) const {
  auto found = rules_.find(Name(element));
  bool below = true;
  if (found == rules_.end() || !found->second.any_content)
    for (xmlNodePtr n = element->children; n; n = n->next)
      if (n->type == XML_ELEMENT_NODE && !Judge(n, errors)) below = false;
  if (!below) return false;
  std::string words = ValidateElement(element);
  if (words.empty()) return true;
  if (errors.size() < 20) errors.emplace_back(static_cast<int>(xmlGetLineNo(element)), "<" + Name(element) + ">: " + words);
  return false;
}

std::vector<std::pair<int, std::string>> ConfigSchema::Validate(xmlDocPtr document) const {
  std::vector<std::pair<int, std::string>> errors;
  xmlNodePtr root = xmlDocGetRootElement(document);
  if (!ValidateElement(root).empty()) Judge(root, errors);
  return errors;
}

}  // namespace holdfast::cluster
