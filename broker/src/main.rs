//! The server: flags and exit codes.

use std::process::ExitCode;

use actix_rt::System;
use tikv_jemallocator::Jemalloc;
use tracing_subscriber::EnvFilter;
use warren_broker::boot;
use warren_broker::config::{Config, EXIT_CONFIG, LogFormat};
use warren_broker::fatal::{EXIT_BROKEN, EXIT_STORE};
use warren_broker::log_line::Lines;

/// Backlogs come and go: what they took goes back to the system in the background, which glibc's allocator does not do.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    let config = match Config::of_process() {
        Ok(config) => config,
        Err(error) => {
            use std::io::Write as _;
            let status = error.exit_code();
            // There is nobody left to tell if this fails.
            let _ = if status == 0 {
                writeln!(std::io::stdout(), "{error}")
            } else {
                writeln!(std::io::stderr(), "{error}")
            };
            return ExitCode::from(status);
        }
    };
    let filter = EnvFilter::new(&config.log.filter);
    match config.log.format {
        LogFormat::Text => tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_ansi(false)
            .with_writer(Lines(std::io::stderr))
            .init(),
        LogFormat::Json => tracing_subscriber::fmt()
            .json()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .init(),
    }
    match System::new().block_on(boot::run(config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(reason = format!("{error:#}"), "the node cannot go on");
            let of_config = error.is::<warren_broker::config::Error>()
                || error.is::<warren_cluster::tls::Error>()
                || error.is::<warren_broker::joining::Error>();
            ExitCode::from(if of_config {
                EXIT_CONFIG
            } else if error.is::<warren_cluster::log::Error>() {
                EXIT_STORE
            } else {
                EXIT_BROKEN
            })
        }
    }
}
