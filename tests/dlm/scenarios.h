// Scenarios that random seeds reach too rarely; each returns "" or what went wrong.
#pragma once

#include <string>

namespace holdfast::dlm {

// A name frozen for a dead writer is locked under RECOVERY; then its master dies too. The RECOVERY lock must not count
// as a survivor that proves that nobody was writing.
std::string RecoveryGrantScenario();

}  // namespace holdfast::dlm
