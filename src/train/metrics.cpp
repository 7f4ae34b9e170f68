// SPDX-License-Identifier: Apache-2.0
#include "train/metrics.hpp"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/error.hpp"
#include "train/run_folder.hpp"

namespace sdp {

using Json = nlohmann::ordered_json;

namespace {

Json optional(std::optional<double> const& value) {
  return value ? Json(*value) : Json(nullptr);
}

Json range(MinMeanMax const& value) {
  return {{"min", value.min}, {"mean", value.mean}, {"max", value.max}};
}

}  // namespace

void MetricsLog::append_line(std::string const& line) const {
  std::ofstream file(m_path, std::ios::app | std::ios::binary);
  file << line << '\n' << std::flush;
  if (!file) throw DataError("cannot write \"" + m_path.string() + "\": " + std::strerror(errno));
}

void MetricsLog::rewind(std::int64_t step) const {
  std::ifstream file(m_path, std::ios::binary);
  if (!file) return;
  std::string kept;
  if (step > 0) {
    for (std::string line; std::getline(file, line);) {
      const Json record = Json::parse(line, nullptr, false);
      if (record.is_discarded() || !record.contains("step") || record["step"] > step) continue;
      kept += line + '\n';
    }
  }
  file.close();
  write_file(m_path, kept);
}

bool MetricsLog::has_evaluation(std::int64_t step) const {
  std::ifstream file(m_path, std::ios::binary);
  for (std::string line; std::getline(file, line);) {
    const Json record = Json::parse(line, nullptr, false);
    if (record.is_object() && record.value("event", "") == "eval" &&
        record.value("step", std::int64_t{-1}) == step)
      return true;
  }
  return false;
}

void MetricsLog::append(TrainRecord const& r) const {
  Json line{{"event", "train"},
            {"step", r.step},
            {"loss", r.loss},
            {"grad_norm", r.grad_norm},
            {"lr", r.lr},
            {"samples", r.samples},
            {"tokens", r.tokens},
            {"step_ms", r.step_ms},
            {"forward_ms", r.forward_ms},
            {"backward_ms", r.backward_ms},
            {"exchange_ms", r.exchange_ms},
            {"optimizer_ms", r.optimizer_ms}};
  if (r.images_per_s)
    line["images_per_s"] = *r.images_per_s;
  else
    line["tokens_per_s"] = optional(r.tokens_per_s);
  line["mfu"] = optional(r.mfu);
  line["sent_bytes"] = r.sent_bytes;
  line["recv_bytes"] = r.recv_bytes;
  line["mem_peak_bytes"] = r.mem_peak_bytes;
  line["skipped"] = r.skipped;
  append_line(line.dump());
}

void MetricsLog::append(EvalRecord const& r) const {
  Json line{{"event", "eval"}, {"step", r.step}, {"val_loss", r.val_loss}};
  if (r.val_accuracy) line["val_accuracy"] = *r.val_accuracy;
  if (r.val_accuracy_no_recalibration)
    line["val_accuracy_no_recalibration"] = *r.val_accuracy_no_recalibration;
  if (r.ensemble_loss) line["ensemble_loss"] = *r.ensemble_loss;
  append_line(line.dump());
}

void MetricsLog::append(CheckpointRecord const& r) const {
  append_line(Json{{"event", "checkpoint"},
                   {"step", r.step},
                   {"path", r.path},
                   {"seconds", r.seconds},
                   {"bytes", r.bytes},
                   {"blocked_seconds", r.blocked_seconds}}
                  .dump());
}

std::string to_json(RunSummary const& s) {
  Json memory;
  for (int i = 0; i < k_memory_categories; ++i)
    memory[name(static_cast<MemoryCategory>(i))] = {
        {"predicted", s.memory_predicted[i] ? Json(*s.memory_predicted[i]) : Json(nullptr)},
        {"measured", range(s.memory_measured[i])}};
  memory["total"] = {{"measured", range(s.memory_total)}};
  return Json{{"name", s.name},
              {"steps", s.steps},
              {"samples", s.samples},
              {"tokens", s.tokens},
              {"val_loss", optional(s.val_loss)},
              {"best_val_loss", optional(s.best_val_loss)},
              {"val_accuracy", optional(s.val_accuracy)},
              {"ensemble_loss", optional(s.ensemble_loss)},
              {"wall_seconds", s.wall_seconds},
              {"step_ms", optional(s.step_ms)},
              {"tokens_per_s", optional(s.tokens_per_s)},
              {"images_per_s", optional(s.images_per_s)},
              {"parameters", s.parameters},
              {"flops_per_rank", range(s.flops_per_rank)},
              {"memory", memory},
              {"process_peak_bytes", range(s.process_peak_bytes)},
              {"process_model_bytes", range(s.process_model_bytes)},
              {"sent_bytes_per_step",
               {{"predicted", s.sent_bytes_predicted},
                {"measured", optional(s.sent_bytes_measured)}}},
              {"regime", s.regime},
              {"subnetworks", s.subnetworks},
              {"coverage", s.coverage},
              {"true_fraction", range(s.true_fraction)},
              {"flop_share", range(s.flop_share)},
              {"holder_sets", s.holder_sets},
              {"rho", s.rho},
              {"skipped", s.skipped},
              {"checkpoints", s.checkpoints}}
             .dump(2) +
         "\n";
}

}  // namespace sdp
