// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>

#include "base/error.hpp"
#include "comm/world.hpp"

namespace sdp::cli {

/// What a subcommand does once its arguments are known. `world` is null for the commands that are
/// one process by nature.
using Action = std::function<ExitCode(World const* world)>;

// Each adds its subcommand to the application and sets `action` when the user asks for it.
void add_train(CLI::App& app, Action& action);
void add_eval(CLI::App& app, Action& action);
void add_plan(CLI::App& app, Action& action);
void add_bench(CLI::App& app, Action& action);
void add_compare(CLI::App& app, Action& action);
void add_export(CLI::App& app, Action& action);
void add_import(CLI::App& app, Action& action);
void add_info(CLI::App& app, Action& action);
void add_tokenize(CLI::App& app, Action& action);
void add_sample(CLI::App& app, Action& action);

/// The text of `sdp --version`.
std::string version_text();

/// Whether a subcommand runs on all ranks of a launcher.
bool is_parallel(std::string const& subcommand);
/// Whether a subcommand runs a model; the others do without a device.
bool computes(std::string const& subcommand);

}  // namespace sdp::cli
