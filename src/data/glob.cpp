// SPDX-License-Identifier: Apache-2.0
#include "data/glob.hpp"

#include <glob.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <set>
#include <utility>

#include "base/error.hpp"

namespace sdp {

namespace {

namespace fs = std::filesystem;

/// What the C library finds, in byte order (its own order depends on the locale).
std::vector<std::string> matches(std::string const& key, std::string const& pattern) {
  std::error_code ignored;
  if (fs::is_regular_file(pattern, ignored)) return {pattern};  // a name with brackets in it
  glob_t found{};
  const int status = ::glob(pattern.c_str(), GLOB_ERR | GLOB_NOSORT | GLOB_TILDE, nullptr, &found);
  const int reason = errno;
  std::vector<std::string> names(found.gl_pathv, found.gl_pathv + found.gl_pathc);
  ::globfree(&found);
  if (status != 0 && status != GLOB_NOMATCH)
    throw ConfigError(key + ": a folder of the pattern \"" + pattern +
                      "\" cannot be read: " + std::strerror(reason));
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace

std::vector<std::string> expand_globs(std::string const& key,
                                      std::vector<std::string> const& patterns) {
  if (patterns.empty()) throw ConfigError(key + " is empty; expected at least one file or pattern");
  std::vector<std::string> files;
  std::set<fs::path> seen;
  for (std::string const& pattern : patterns) {
    bool any_file = false;
    const auto names = matches(key, pattern);
    for (std::string const& name : names) {
      std::error_code ignored;
      if (fs::is_directory(name, ignored)) continue;
      any_file = true;
      if (seen.insert(fs::absolute(name).lexically_normal()).second) files.push_back(name);
    }
    if (names.empty()) throw ConfigError(key + ": the pattern \"" + pattern + "\" matches no file");
    if (!any_file)
      throw ConfigError(key + ": the pattern \"" + pattern +
                        "\" matches a folder and no file; name the files in it, as in \"" +
                        (fs::path(names.front()) / "*.bin").lexically_normal().string() + "\"");
  }
  return files;
}

}  // namespace sdp
