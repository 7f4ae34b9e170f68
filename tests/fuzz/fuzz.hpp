// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <random>
#include <string>
#include <string_view>
#include <vector>

// The readers of files that come from outside, each as a function of bytes, and the mutations that
// the driver applies to good files.

namespace sdp::fuzz {

/// What a reader is given: one file, or the files of a folder, by their path in it.
using Bundle = std::map<std::string, std::string>;

/// A bundle as one string, and back. Text that does not come from pack() is a bundle of the one
/// file `name`; a damaged pack gives the files that are whole.
std::string pack(Bundle const& bundle);
Bundle unpack(std::string_view bytes, std::string const& name);

/// What a reader made of a bundle. A reader that breaks its promise (another exception than the
/// project's, a message that is not one sentence about the file, content that contradicts itself)
/// ends the program through finding().
struct Result {
  bool accepted = false;
  std::string content;  ///< of an accepted file: everything that it holds
  std::string error;    ///< of a refused one
};

/// A folder of this process, in memory where there is one, removed at its end.
std::string scratch_folder();

/// Prints the text and aborts.
[[noreturn]] void finding(std::string const& text);

/// How the bytes of a file are laid out, for mutations that know it.
enum class Form { binary, text, safetensors, hdf5 };

struct Reader {
  char const* name;
  char const* seeds;  ///< folder of its seeds
  char const* file;   ///< name of the file where a seed is no folder
  char const* ends;   ///< mutated are the files whose names end so
  Form form;
  bool checksummed;  ///< a changed byte may not change the content of an accepted file
  Result (*run)(Bundle const&);
};
std::vector<Reader> const& readers();

/// Draws that are the same everywhere, unlike the distributions of the standard library.
class Random {
 public:
  explicit Random(std::uint64_t seed) : m_engine(seed) {}
  /// In [0, n); 0 for n = 0.
  std::uint64_t below(std::uint64_t n) { return n == 0 ? 0 : m_engine() % n; }
  bool one_in(std::uint64_t n) { return below(n) == 0; }
  std::uint64_t bits() { return m_engine(); }

 private:
  std::mt19937_64 m_engine;
};

/// Changes one file of the bundle. Returns whether other content may be right: the form has no
/// checksums, or the change was made through the library that keeps them.
bool mutate(Reader const& reader, std::vector<Bundle> const& seeds, Bundle& bundle, Random& random);

/// Edits an HDF5 file through the library: removes, replaces, renames and links objects, changes
/// attributes. Returns false where the bytes are no HDF5 file.
bool edit_hdf5(std::string& bytes, Random& random);

}  // namespace sdp::fuzz
