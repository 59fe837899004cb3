//! The black-box tests: one binary that runs the program and looks at what comes out. A module for each behaviour.
//!
//! Some need more than a Rust toolchain, and say that they are skipped without it: `engine`, `deploy` and `image` (a real Docker
//! engine, `LONGSHORE_ENGINE`), `swarm` (one that is a Swarm, `LONGSHORE_SWARM`) and `clients` (published forward clients,
//! `LONGSHORE_CLIENTS`). `.ci/run` brings all of them and sets `LONGSHORE_REQUIRE=1`, which makes a skip a failure.

#![forbid(unsafe_code)]

mod harness;

mod audit;
mod backlog;
mod bad_input;
mod bench;
mod clients;
mod command_line;
mod config_errors;
mod data_folder;
mod dead_letters;
mod dead_sink;
mod deploy;
mod descriptors;
mod docker_folder;
mod durable;
mod durable_disk;
mod engine;
mod engine_rotation;
mod example;
mod file_input;
mod file_sink;
mod forward_attacks;
mod forward_bad;
mod forward_cases;
mod forward_claims;
mod forward_golden;
mod forward_idle;
mod forward_input;
mod forward_letters;
mod forward_limits;
mod forward_rmpv;
mod forward_security;
mod forward_sink;
mod forward_upgrade;
mod forward_ways_in;
mod full_disk;
mod full_log;
mod http_sink;
mod image;
mod ledger;
mod memory;
mod nginx;
mod operation;
mod package;
mod readiness;
mod reload;
mod replay;
mod restart;
mod rotation;
mod secrets;
mod service;
mod start;
mod swarm;
mod tidy;
