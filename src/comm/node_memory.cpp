// SPDX-License-Identifier: Apache-2.0
#include "comm/node_memory.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <random>
#include <string>
#include <utility>

namespace sdp {

namespace {

/// A name that no other process takes, not even in another container with the same /dev/shm.
std::string new_name() {
  std::random_device device;
  const auto number = (static_cast<std::uint64_t>(device()) << 32) | device();
  return fmt::format("/sdp-{}-{:016x}", getpid(), number);
}

/// A file descriptor that closes itself.
class File {
 public:
  explicit File(int descriptor) : m_descriptor(descriptor) {}
  ~File() {
    if (m_descriptor >= 0) close(m_descriptor);
  }
  File(File const&) = delete;
  File& operator=(File const&) = delete;
  int get() const { return m_descriptor; }

 private:
  int m_descriptor;
};

}  // namespace

bool NodeMemory::map(int file, std::size_t bytes, Mapping& mapping) {
  if (file < 0) return false;
  void* const data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (data == MAP_FAILED) return false;
  mapping = {data, bytes};
  return true;
}

std::unique_ptr<NodeMemory> NodeMemory::allocate(World const& world, MemoryCategory category,
                                                 index_t bytes) {
  if (world.ranks_per_node() < 2) return nullptr;
  std::unique_ptr<NodeMemory> memory(new NodeMemory);
  memory->m_rank = world.rank();
  memory->m_others.resize(static_cast<std::size_t>(world.size()));
  const auto size = static_cast<std::size_t>(std::max<index_t>(bytes, 1));
  const std::string name = new_name();
  bool mapped = false;
  {
    const File file(shm_open(name.c_str(), O_CREAT | O_EXCL | O_RDWR, S_IRUSR | S_IWUSR));
    // Reserved here and now: a store into memory for which there is no room ends the process.
    mapped = file.get() >= 0 && posix_fallocate(file.get(), 0, static_cast<off_t>(size)) == 0 &&
             map(file.get(), size, memory->m_own);
  }
  if (mapped) {
    memory->m_category = category;
    memory->m_counted = bytes;
    memory_ledger::add(category, bytes);
  }

  std::string names;  // a line for each rank: size and name
  for (std::string const& line : world.gather(fmt::format("{} {}\n", size, name))) names += line;
  world.broadcast(names);
  bool complete = world.all(mapped);
  if (complete) {
    std::size_t begin = 0;
    for (int rank = 0; rank < world.size(); ++rank) {
      const std::size_t space = names.find(' ', begin), end = names.find('\n', begin);
      const std::size_t theirs = std::stoull(names.substr(begin, space - begin));
      const std::string at = names.substr(space + 1, end - space - 1);
      begin = end + 1;
      auto const& node = world.node_ranks();
      if (rank == world.rank() || !std::binary_search(node.begin(), node.end(), rank)) continue;
      const File file(shm_open(at.c_str(), O_RDWR, 0));
      mapped = mapped && map(file.get(), theirs, memory->m_others[static_cast<std::size_t>(rank)]);
    }
    complete = world.all(mapped);
  }
  shm_unlink(name.c_str());
  return complete ? std::move(memory) : nullptr;
}

NodeMemory::~NodeMemory() {
  if (m_own.data != nullptr) munmap(m_own.data, m_own.bytes);
  for (Mapping const& other : m_others)
    if (other.data != nullptr) munmap(other.data, other.bytes);
  memory_ledger::add(m_category, -m_counted);
}

std::vector<void*> NodeMemory::of_ranks() const {
  std::vector<void*> all;
  for (Mapping const& other : m_others) all.push_back(other.data);
  all[static_cast<std::size_t>(m_rank)] = m_own.data;
  return all;
}

}  // namespace sdp
