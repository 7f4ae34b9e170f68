// SPDX-License-Identifier: Apache-2.0
#include "data/token_dataset.hpp"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "base/error.hpp"
#include "base/log.hpp"

namespace sdp {

TokenDataset::TokenDataset(std::string key, std::vector<std::string> const& files,
                           TokenFormat format, index_t seq_len, index_t vocab_size)
    : m_key(std::move(key)), m_first_sample{0}, m_seq_len(seq_len), m_vocab_size(vocab_size) {
  if (seq_len < 1)
    throw ConfigError("train.seq_len is " + std::to_string(seq_len) + ", expected at least 1");
  index_t skipped = 0;
  std::string skipped_name;
  m_shards.reserve(files.size());
  for (std::string const& file : files) {
    TokenShard shard(file, format);
    m_num_tokens += shard.num_tokens();
    const index_t samples = (shard.num_tokens() - 1) / seq_len;
    if (samples == 0) {
      if (skipped++ == 0)
        skipped_name = file + " (" + std::to_string(shard.num_tokens()) + " tokens)";
      continue;
    }
    m_first_sample.push_back(m_first_sample.back() + samples);
    m_shards.push_back(std::move(shard));
  }
  std::string const need = std::to_string(seq_len + 1) +
                           " tokens that one sample of train.seq_len = " + std::to_string(seq_len) +
                           " takes";
  if (m_shards.empty())
    throw ConfigError(m_key + ": " + std::to_string(files.size()) + " file(s) with " +
                      std::to_string(m_num_tokens) + " tokens in all, but none has the " + need);
  if (skipped > 0)
    log::warning(m_key + ": " + std::to_string(skipped) + " of " + std::to_string(files.size()) +
                 " files left out, with fewer than the " + need + "; the first is " + skipped_name);
}

TokenShard& TokenDataset::opened(index_t shard) {
  const auto place = std::find(m_open.begin(), m_open.end(), shard);
  if (place != m_open.end()) {
    std::rotate(place, place + 1, m_open.end());
  } else {
    if (m_open.size() == k_max_open) {
      m_shards[m_open.front()].close();
      m_open.erase(m_open.begin());
    }
    m_open.push_back(shard);
  }
  return m_shards[shard];
}

void TokenDataset::read(index_t sample, std::int32_t* tokens) {
  if (sample < 0 || sample >= num_samples())
    throw std::out_of_range("TokenDataset::read: sample " + std::to_string(sample) + " of " +
                            std::to_string(num_samples()));
  const index_t shard = std::upper_bound(m_first_sample.begin(), m_first_sample.end(), sample) -
                        m_first_sample.begin() - 1;
  const index_t first = (sample - m_first_sample[shard]) * m_seq_len;
  TokenShard& file = opened(shard);
  file.read(first, m_seq_len + 1, tokens);
  // As unsigned, a token of 2^31 or more is outside too.
  std::uint32_t largest = 0;
  for (index_t i = 0; i <= m_seq_len; ++i)
    largest = std::max(largest, static_cast<std::uint32_t>(tokens[i]));
  if (static_cast<index_t>(largest) < m_vocab_size) return;
  index_t bad = 0;
  while (static_cast<std::uint32_t>(tokens[bad]) < m_vocab_size) ++bad;
  throw DataError(file.path() + ": token " +
                  std::to_string(static_cast<std::uint32_t>(tokens[bad])) + " at byte " +
                  std::to_string(file.offset(first + bad)) + " is outside the vocabulary, " +
                  "expected less than model.vocab_size = " + std::to_string(m_vocab_size));
}

}  // namespace sdp
