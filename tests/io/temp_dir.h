// A folder for one test, below the working directory (O_DIRECT works there; /tmp may be a tmpfs), removed at the end.
#pragma once

#include <stdlib.h>

#include <filesystem>
#include <string>

#include "base/check.h"

namespace holdfast {

class TempDir {
 public:
  TempDir() {
    std::string name = (std::filesystem::current_path() / "hf-test-XXXXXX").string();
    HF_CHECK(mkdtemp(name.data()) != nullptr, "mkdtemp in %s", name.c_str());
    path_ = name;
  }
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempDir(const TempDir&) = delete;
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace holdfast
