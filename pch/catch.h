// Precompiled for test programs: the standard headers and Catch2.
#include "std.h"
#include <catch2/catch.hpp>
