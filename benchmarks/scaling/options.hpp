// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdlib>
#include <string>
#include <vector>

namespace sdp::bench {

/// What the benchmarks of this folder are asked for on the command line.
struct Options {
  int repeat = 7;           ///< timed rounds
  double bucket_mb = 16.0;  ///< MiB
  int slots = 3;
  int units = 1024;
  bool brief = false;
  std::vector<double> millions;  ///< elements of the models, in millions
};

/// Words without a name are sizes; `sizes` where there is none.
inline Options parse(int argc, char** argv, std::vector<double> sizes) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    auto value = [&] { return ++i < argc ? std::atof(argv[i]) : 0.0; };
    if (word == "--repeat")
      options.repeat = std::max(1, static_cast<int>(value()));
    else if (word == "--bucket-mb")
      options.bucket_mb = value();
    else if (word == "--slots")
      options.slots = static_cast<int>(value());
    else if (word == "--units")
      options.units = std::max(16, static_cast<int>(value()));
    else if (word == "--brief")
      options.brief = true;
    else
      options.millions.push_back(std::atof(argv[i]));
  }
  if (options.millions.empty()) options.millions = std::move(sizes);
  return options;
}

}  // namespace sdp::bench
