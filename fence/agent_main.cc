// See agent_main.h.

#include "fence/agent_main.h"

#include <charconv>
#include <cstdio>
#include <cstring>
#include <iostream>

namespace holdfast::fence {

namespace {

constexpr size_t kLinesMax = 1000;

std::string Trim(const std::string& text) {
  size_t from = text.find_first_not_of(" \t\r"), to = text.find_last_not_of(" \t\r");
  return from == std::string::npos ? std::string() : text.substr(from, to - from + 1);
}

bool PutLine(const std::string& line, AgentParameters* out) {
  size_t equals = line.find('=');
  if (equals == std::string::npos || equals == 0) return false;
  (*out)[Trim(line.substr(0, equals))] = Trim(line.substr(equals + 1));
  return true;
}

}  // namespace

int Fail(const std::string& words) {
  fprintf(stderr, "%s\n", words.c_str());
  return kExitFailed;
}

bool ReadParameters(const AgentDescription& description, int argc, char** argv, AgentParameters* out, int* exit_code) {
  *exit_code = kExitFailed;
  if (argc > 1) {
    for (int i = 1; i < argc; i++) {
      std::string word = argv[i];
      if (word == "-h" || word == "--help") {
        printf("usage: %s < parameters, or %s -o ACTION NAME=VALUE...\nactions: off status monitor metadata\n", description.name, description.name);
        for (const AgentParameter& p : description.parameters) printf("  %-14s %s\n", p.name, p.words);
        *exit_code = kExitDone;
        return false;
      }
      if ((word == "-o" || word == "--action") && i + 1 < argc) {
        (*out)["action"] = argv[++i];
      } else if (!PutLine(word, out)) {
        return Fail("not NAME=VALUE: " + word) == kExitDone;
      }
    }
  } else {
    std::string line;
    for (size_t n = 0; n < kLinesMax && std::getline(std::cin, line); n++) {
      line = Trim(line);
      if (line.empty() || line.front() == '#') continue;
      if (!PutLine(line, out)) return Fail("a line of the input is not name=value") == kExitDone;
    }
  }
  if (!out->contains("action")) (*out)["action"] = out->contains("option") ? (*out)["option"] : "off";
  return true;
}

void PrintMetadata(const AgentDescription& description) {
  printf("<?xml version=\"1.0\" ?>\n<resource-agent name=\"%s\" shortdesc=\"%s\">\n<longdesc>%s</longdesc>\n<vendor-url/>\n<parameters>\n",
         description.name, description.brief, description.words);
  printf("\t<parameter name=\"action\" unique=\"0\" required=\"1\">\n\t\t<getopt mixed=\"-o [action]\"/>\n"
         "\t\t<content type=\"string\" default=\"off\"/>\n\t\t<shortdesc lang=\"en\">Fencing action</shortdesc>\n\t</parameter>\n");
  for (const AgentParameter& p : description.parameters) {
    printf("\t<parameter name=\"%s\" unique=\"0\" required=\"%d\">\n\t\t<content type=\"%s\"/>\n\t\t<shortdesc lang=\"en\">%s</shortdesc>\n\t</parameter>\n",
           p.name, p.required ? 1 : 0, p.type, p.words);
  }
  printf("</parameters>\n<actions>\n");
  for (const char* action : {"off", "status", "monitor", "metadata"}) printf("\t<action name=\"%s\"/>\n", action);
  printf("</actions>\n</resource-agent>\n");
}

std::vector<std::string> SplitList(const std::string& text) {
  std::vector<std::string> out(1);
  for (char c : text) {
    if (c == ',' || c == ' ') {
      if (!out.back().empty()) out.emplace_back();
    } else {
      out.back() += c;
    }
  }
  if (out.back().empty()) out.pop_back();
  return out;
}

bool WholeNumber(const std::string& text, int base, uint64_t low, uint64_t high, uint64_t* out) {
  bool prefixed = base == 16 && (text.starts_with("0x") || text.starts_with("0X"));
  const char* from = text.data() + (prefixed ? 2 : 0);
  auto [end, error] = std::from_chars(from, text.data() + text.size(), *out, base);
  return error == std::errc() && end == text.data() + text.size() && *out >= low && *out <= high;
}

}  // namespace holdfast::fence
